"""The connections that the queue keeps for reading and completing."""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from servicedesk import binary
from servicedesk.database import create_pool
from servicedesk.queue.hot import HotConnection, SilentConnectionError
from tests.servicedesk.queue.harness import count

NUMBERS = "SELECT number FROM unnest(%(numbers)s::int8[]) AS number WHERE number > %(least)s"
QUOTIENT = "SELECT 1 / %(least)s::int8"
CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'hot' AND datname = current_database()
"""
VALUES = {"numbers": binary.int8s([3, 1, 2]), "least": binary.int8(1)}


def on_connection(
    url: str, act: Callable[[HotConnection], Awaitable[None]], seconds: float = 15.0
) -> None:
    async def run() -> None:
        pool = create_pool(url, application="hot", minimum=1, maximum=2, wait_seconds=15)
        async with pool:
            hot = HotConnection(pool, seconds)
            try:
                await act(hot)
            finally:
                await hot.close()

    asyncio.run(run())


async def numbers(hot: HotConnection) -> list[int]:
    return await hot.fetch(lambda row: int(row[0]), NUMBERS, VALUES)


def test_rows_come_from_named_values_in_binary(database_url: str) -> None:
    async def act(hot: HotConnection) -> None:
        assert await numbers(hot) == [3, 2]
        assert await numbers(hot) == [3, 2]

    on_connection(database_url, act)


def test_varchar_comes_as_its_bytes(database_url: str) -> None:
    async def act(hot: HotConnection) -> None:
        query = "SELECT %(words)s::text AS text, %(words)s::text::varchar AS bytes"
        words = "привет 🔥 שלום"
        [row] = await hot.fetch(tuple, query, {"words": words.encode()})
        assert row == (words, words.encode())

    on_connection(database_url, act)


def test_statement_that_fails_leaves_the_connection_as_it_was(database_url: str) -> None:
    async def act(hot: HotConnection) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await hot.execute(QUOTIENT, {"least": binary.int8(0)})
        assert await numbers(hot) == [3, 2]

    on_connection(database_url, act)


def test_connection_that_was_cut_is_replaced_after_one_error(database_url: str) -> None:
    async def act(hot: HotConnection) -> None:
        await numbers(hot)
        await asyncio.to_thread(count, database_url, CUT)
        with pytest.raises(psycopg.OperationalError):
            await numbers(hot)
        assert await numbers(hot) == [3, 2]

    on_connection(database_url, act)


def test_server_that_does_not_answer_is_given_up_and_asked_anew(database_url: str) -> None:
    async def act(hot: HotConnection) -> None:
        with pytest.raises(SilentConnectionError, match=r"within 3\b"):
            await hot.execute("SELECT pg_sleep(20)", {})
        assert await numbers(hot) == [3, 2]

    on_connection(database_url, act, seconds=3.0)
