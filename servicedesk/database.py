"""PostgreSQL: the pool, the schema version a daemon needs, and which errors mean "it is away"."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

MIGRATIONS = Path(__file__).resolve().parent.parent / "sql"
# The newest migration this code relies upon; a test keeps it equal to the newest file in sql/.
SCHEMA_VERSION = 6

# Connection-level failures: the server is starting, stopping, full or gone, or the socket broke.
# They say nothing about the statement, so the same statement may be tried again later. A primary
# that was just demoted takes no writes until the connection leads to the new one.
AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    PoolTimeout,
)

SESSION: Mapping[str, str] = {
    "timezone": "UTC",
    # A session that hangs in a transaction would hold the queues back: see docs/decisions.
    "idle_in_transaction_session_timeout": "30s",
}
# A queue's table is almost empty most of the time, and a plan made then is kept. To such a plan a
# scan of the whole table looks cheap; later it would go through every dead row. A statement that
# its daemon has given up, after 15 s, does not go on beside the next one.
QUEUE_SESSION: Mapping[str, str] = {
    **SESSION, "enable_seqscan": "off", "jit": "off", "statement_timeout": "20s",
}  # fmt: skip
# What no text of PostgreSQL holds: NUL, and lone surrogates, which stand for bytes that were not
# UTF-8 where a library decodes with `surrogateescape` (PEP 383).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class SchemaError(Exception):
    """The database's schema is older than this code, or was never migrated."""


def storable(text: str) -> str:
    r"""The text as PostgreSQL takes it, with bytes that were not UTF-8 written out, as `\xe4`."""
    return UNSTORABLE.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else ascii(found[0])[1:-1]


def create_pool(
    url: str, *, application: str, minimum: int, maximum: int, wait_seconds: float
) -> AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]:
    """A closed pool of autocommit connections; the caller opens and closes it.

    Every statement of the stores is a transaction of its own unless the store opens one.
    """
    return AsyncConnectionPool(
        url,
        min_size=minimum,
        max_size=maximum,
        timeout=wait_seconds,
        # The pool doubles the pause between its attempts until this time-out and starts afresh
        # after it. With its default of five minutes an outage goes on for as long as it lasted.
        reconnect_timeout=3,
        open=False,
        kwargs=_connection_settings(application, QUEUE_SESSION),
    )


async def connect(url: str, *, application: str) -> AsyncConnection[tuple[object, ...]]:
    """A connection as those of the pool."""
    return await AsyncConnection.connect(url, **_connection_settings(application))


def _connection_settings(application: str, session: Mapping[str, str] = SESSION) -> dict[str, Any]:
    return {
        "autocommit": True,
        "application_name": application,
        # Texts go out as UTF-8 without asking, whatever the database or the URL prefers.
        "client_encoding": "UTF8",
        "connect_timeout": 5,
        # A server that has vanished without a word is noticed within half a minute.
        "tcp_user_timeout": 20_000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "prepare_threshold": 0,
        "options": " ".join(f"-c {name}={value}" for name, value in session.items()),
    }


# No lock beyond ACCESS SHARE; to_regclass answers NULL instead of failing.
IS_MIGRATED = "SELECT to_regclass('schema_migration') IS NOT NULL"
# A table of a few rows; the primary key, backwards.
NEWEST_MIGRATION = "SELECT coalesce(max(version), 0) FROM schema_migration"


async def schema_version(connection: AsyncConnection[tuple[object, ...]]) -> int:
    """The newest applied migration, 0 when there is none."""
    cursor = await connection.execute(IS_MIGRATED)
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return 0
    cursor = await connection.execute(NEWEST_MIGRATION)
    row = await cursor.fetchone()
    return int(str(row[0])) if row else 0


async def require_schema(connection: AsyncConnection[tuple[object, ...]]) -> None:
    """Raises SchemaError when the schema is below SCHEMA_VERSION. A newer one is accepted:
    migrations are forward only and old code must run while new code is rolled out."""
    found = await schema_version(connection)
    if found < SCHEMA_VERSION:
        raise SchemaError(
            f"the database is at schema version {found}, this code needs {SCHEMA_VERSION}; "
            "run: python -m servicedesk.migrate"
        )
