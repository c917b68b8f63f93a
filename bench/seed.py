"""The database of a contestant: migrated, with the same 100,000 tickets for everybody, and put
back to exactly that before each sample that could see a difference."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from deploy.local.postgres import Postgres
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations
from ticketd.tickets import PRIORITIES, STATUSES

TEMPLATE = "seeded"
# Far enough back that new tickets come after all of them.
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
# Not a whole number of seconds: a real ticket is hardly ever created at the full second.
STEP = timedelta(seconds=20, milliseconds=7)
DESCRIPTION = "Горит красная лампа, в лотке есть бумага. Перезапуск не помог. " * 3
PEOPLE = [f"{name}@example.org" for name in ("ivan.sidorov", "мария.ким", "olga.b", "lev.t")]
COLUMNS = (
    "id, title, description, status, priority, requester, assignee, version, "
    "created_at, updated_at, closed_at"
)


def seed_rows(count: int, description: str = DESCRIPTION) -> Iterator[tuple[Any, ...]]:
    """Rows of tickets in the order of COLUMNS, the same at every call."""
    chance = random.Random(7)
    for number in range(count):
        created = FIRST + number * STEP
        milliseconds = round(created.timestamp() * 1000)
        tail = 0b10 << 62 | chance.getrandbits(62)
        identifier = UUID(int=milliseconds << 80 | 7 << 76 | chance.getrandbits(12) << 64 | tail)
        status = chance.choice(STATUSES)
        assignee = None if status == "new" else chance.choice(PEOPLE)
        closed = created if status == "closed" else None
        title = f"Заявка № {number}: не печатает принтер"
        priority = chance.choice(PRIORITIES)
        requester = chance.choice(PEOPLE)
        version = 1 + STATUSES.index(status)
        yield (
            identifier, title, description, status, priority, requester, assignee, version,
            created, created, closed,
        )  # fmt: skip


def description_of(size: int) -> str:
    """A description of about so many bytes of UTF-8, which does not compress to nothing."""
    chance = random.Random(11)
    words = DESCRIPTION.split()
    found: list[str] = []
    length = 0
    while length < size:
        found.append(f"{chance.choice(words)}{chance.randrange(1_000_000)}")
        length += len(found[-1].encode()) + 1
    return " ".join(found)


def make_template(server: Postgres, count: int, ids: Path, description: str) -> None:
    """A migrated database with the tickets and a copy of them; writes the ids to a file."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(server.url(TEMPLATE), read_migrations(MIGRATIONS), report=lambda line: None)
    rows = list(seed_rows(count, description))
    with psycopg.connect(server.url(TEMPLATE)) as connection:
        connection.execute("CREATE TABLE bench_seed (LIKE tickets)")
        with connection.cursor().copy(f"COPY bench_seed ({COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    restore(server.url(TEMPLATE))
    ids.write_text("".join(f"{row[0]}\n" for row in rows))


def make_database(server: Postgres, name: str) -> str:
    """The URL of a new copy of the template."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {TEMPLATE}')
    return server.url(name)


# TRUNCATE takes ACCESS EXCLUSIVE; nobody is under load at that moment.
RESTORE = (
    "TRUNCATE tickets, outbox, idempotency_key, attachments",
    "INSERT INTO tickets SELECT * FROM bench_seed ORDER BY id",
    "VACUUM (ANALYZE) tickets",
    "VACUUM (ANALYZE) outbox",
    "VACUUM (ANALYZE) idempotency_key",
    # So that no checkpoint of an earlier sample falls into the next one.
    "CHECKPOINT",
)


def restore(url: str) -> None:
    """Exactly the seeded tickets, an empty outbox, no bloat, everything written out."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in RESTORE:
            connection.execute(statement)


# A scan of what is waiting, between samples only.
OUTBOX = """
SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM outbox
"""


def outbox_lag(url: str) -> dict[str, float]:
    """Rows that wait, and seconds that the oldest of them has waited."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(OUTBOX).fetchone()
    assert row is not None
    return {"rows": float(row[0]), "oldest_seconds": round(float(row[1]), 3)}
