"""A streaming standby of a PostgreSQL server, made by pg_basebackup from the same programs."""

import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import psycopg

from deploy.local.child import Child, Program, StartError
from deploy.local.postgres import DURABLE, USER, Placement, Postgres, place, spare_directory
from tests.support.processes import free_port, wait_until

COPY_SECONDS = 60.0
NAME = "standby"
# A walreceiver that lost its primary asks again soon, as a test has no five seconds for it.
FOLLOWING: Mapping[str, str] = {"cluster_name": NAME, "wal_retrieve_retry_interval": "200ms"}

STREAMS = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
IS_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


def durable_postgres(directory: Path) -> Postgres:
    """A new server, started and ready, whose commits are on disk when they are acknowledged."""
    server = Postgres(
        placement=place(directory / "primary", spare_directory()),
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=directory / "primary.log",
        settings={**DURABLE, "shared_buffers": "64MB"},
    )
    server.start()
    server.wait_ready()
    return server


class Standby:
    """Follows `primary` from the construction on. As long as it is the `synchronous` one, a commit
    is acknowledged when both have it. It can be promoted once, and is then an ordinary server."""

    def __init__(self, primary: Postgres, directory: Path) -> None:
        self.primary = primary
        self._password = unquote(urlsplit(primary.url()).password or "")
        placement = place(directory / NAME, spare_directory())
        self._copy(placement, directory / f"{NAME}.log")
        self.server = Postgres(
            placement=placement,
            port=free_port({primary.port}),
            password=self._password,
            log=directory / f"{NAME}.log",
            settings={**DURABLE, "shared_buffers": "64MB", **FOLLOWING},
        )
        self.server.start()
        self.wait_streaming(30)

    def url(self, database: str = USER) -> str:
        """Leads to whichever of the two takes writes."""
        hosts = f"{self.primary.address},{self.server.address}"
        return (
            f"postgresql://{USER}:{quote(self._password)}@{hosts}/{database}"
            "?target_session_attrs=read-write"
        )

    def wait_streaming(self, seconds: float) -> Self:
        wait_until(lambda: self._asked(STREAMS), seconds, "standby that streams")
        return self

    def make_synchronous(self) -> None:
        """Every commit from here on waits until the standby has applied it."""
        with psycopg.connect(self.primary.url(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
            connection.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            connection.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._asked(IS_SYNCHRONOUS), 30, "synchronous standby")

    def promote(self) -> None:
        """Returns when it takes writes."""
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            row = connection.execute("SELECT pg_promote(true, 60)").fetchone()
        assert row == (True,), "the standby was not promoted within a minute"

    def stop(self) -> None:
        self.server.stop(signal.SIGQUIT)

    def _asked(self, statement: str) -> bool:
        try:
            with psycopg.connect(self.primary.url(), autocommit=True) as connection:
                row = connection.execute(statement.encode()).fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and row != (0,)

    def _copy(self, placement: Placement, log: Path) -> None:
        """With `-R`: standby.signal, and how to reach the primary, which its log never tells."""
        placement.data.parent.mkdir(parents=True, exist_ok=True)
        placement.data.mkdir(mode=0o700)
        if placement.account is not None:
            os.chown(placement.data, placement.account.uid, placement.account.gid)
        child = Child(
            Program(
                name="pg_basebackup",
                command=[
                    str(placement.programs / "pg_basebackup"),
                    f"--pgdata={placement.data}",
                    "--host=127.0.0.1",
                    f"--port={self.primary.port}",
                    f"--username={USER}",
                    "--write-recovery-conf",
                    "--checkpoint=fast",
                    "--no-password",
                    "--no-sync",
                ],
                environment={"LC_ALL": "C", "PATH": os.defpath, "PGPASSWORD": self._password},
                log=log,
                account=placement.account,
            )
        )
        if child.finish(COPY_SECONDS) != 0:
            raise StartError(f"pg_basebackup failed: {child.last_words(3)} (log: {log})")
