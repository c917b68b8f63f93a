"""A PostgreSQL for the pieces that talk to one, and a token for those that ask for one."""

import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.local.ports import free_port
from deploy.local.postgres import FLEETING, Postgres, place, spare_directory
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A migrated database; nothing of it is synced to disk, which is not what is measured here."""
    directory = Path(tempfile.mkdtemp(prefix="servicedesk-micro-"))
    directory.chmod(0o711)
    server = Postgres(
        placement=place(directory / "postgres", spare_directory()),
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=directory / "postgres.log",
        settings=FLEETING,
    )
    server.start()
    server.wait_ready()
    migrate(server.url(), read_migrations(MIGRATIONS), report=lambda line: None)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tickets SELECT gen_random_uuid(), 'Принтер', repeat('текст ', 20), 'new',"
            " 'low', 'anna', NULL, 1, now(), now(), NULL FROM generate_series(1, 1000)"
        )
    yield server.url()
    server.stop(signal.SIGQUIT)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.rmtree(server.data, ignore_errors=True)
