"""The database: the schema version this code needs, and what a connection is set to."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from deploy.local.ports import free_port
from servicedesk.database import (
    AWAY,
    MIGRATIONS,
    SCHEMA_VERSION,
    SchemaError,
    create_pool,
    require_schema,
    schema_version,
)
from servicedesk.migrate import migrate, read_migrations

Connection = psycopg.AsyncConnection[tuple[object, ...]]
Result = TypeVar("Result")


def with_connection(url: str, use: Callable[[Connection], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            return await use(connection)

    return asyncio.run(run())


def pooled(url: str, query: str, *, wait_seconds: float = 10) -> list[tuple[object, ...]]:
    async def run() -> list[tuple[object, ...]]:
        pool = create_pool(
            url, application="ticketd", minimum=1, maximum=1, wait_seconds=wait_seconds
        )
        async with pool, pool.connection() as connection:
            rows = await (await connection.execute(query.encode())).fetchall()
            assert connection.info.transaction_status == TransactionStatus.IDLE
            return rows

    return asyncio.run(run())


def test_code_needs_the_newest_migration() -> None:
    assert read_migrations(MIGRATIONS)[-1].version == SCHEMA_VERSION


def test_database_without_tables_is_at_version_0(empty_database_url: str) -> None:
    assert with_connection(empty_database_url, schema_version) == 0


def test_migrated_database_is_accepted(database_url: str) -> None:
    assert with_connection(database_url, schema_version) == SCHEMA_VERSION
    with_connection(database_url, require_schema)


def test_older_schema_is_refused_with_the_remedy(empty_database_url: str) -> None:
    migrate(empty_database_url, read_migrations(MIGRATIONS)[:1], report=lambda _: None)
    with pytest.raises(SchemaError, match=r"at schema version 1.*run: python -m servicedesk"):
        with_connection(empty_database_url, require_schema)


def test_newer_schema_is_accepted(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO schema_migration VALUES (9999, 'future', '')")
    with_connection(database_url, require_schema)


def test_pooled_connection_is_named_autocommitting_and_in_utc(database_url: str) -> None:
    query = "SELECT current_setting('application_name'), current_setting('TimeZone')"
    assert pooled(database_url, query) == [("ticketd", "UTC")]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_server_that_does_not_listen_is_away(host: str) -> None:
    with pytest.raises(AWAY):
        pooled(f"postgresql://anna@{host}:{free_port()}/db", "SELECT 1", wait_seconds=0.3)


def test_lost_connection_is_away_and_a_wrong_statement_is_not(database_url: str) -> None:
    with pytest.raises(AWAY):
        pooled(database_url, "SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        pooled(database_url, "SELECT 1 FROM nowhere")
    assert not isinstance(caught.value, AWAY)
