"""One statement's round trip: through ticketd's wire, and through psycopg's cursor beside it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from servicedesk.database import connect
from servicedesk.wire import Connection, Wire
from ticketd.batches import GET_MANY, get_many
from ticketd.rows import ticket_of

Act = Callable[[], Awaitable[object]]
CURSOR_SQL = GET_MANY.text.replace("$1::uuid[]", "%b::uuid[]")


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = uvloop.new_event_loop()
    yield found
    found.close()


@pytest.fixture(scope="module")
def ids(database_url: str) -> Sequence[UUID]:
    with psycopg.connect(database_url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tickets").fetchall()]


def ticket_row(cursor: psycopg.AsyncCursor[Any]) -> Callable[[Sequence[Any]], object]:
    del cursor
    return ticket_of


@pytest.mark.parametrize("rows", [1, 32])
def test_statement_through_the_wire(
    benchmark: BenchmarkFixture,
    loop: asyncio.AbstractEventLoop,
    database_url: str,
    ids: Sequence[UUID],
    rows: int,
) -> None:
    async def open_wire() -> Wire:
        return Wire(await connect(database_url, application="micro"))

    wire = loop.run_until_complete(open_wire())
    asked = ids[:rows]
    found = benchmark(lambda: loop.run_until_complete(get_many(wire, asked)))
    assert [ticket.id for ticket in found] == asked
    loop.run_until_complete(wire.close())


@pytest.mark.parametrize("rows", [1, 32])
def test_statement_through_a_cursor(
    benchmark: BenchmarkFixture,
    loop: asyncio.AbstractEventLoop,
    database_url: str,
    ids: Sequence[UUID],
    rows: int,
) -> None:
    connection: Connection = loop.run_until_complete(connect(database_url, application="micro"))
    connection.prepare_threshold = 0
    asked = list(ids[:rows])

    async def ask() -> list[object]:
        cursor = connection.cursor(binary=True, row_factory=ticket_row)
        await cursor.execute(CURSOR_SQL.encode(), (asked,))
        return await cursor.fetchall()

    assert len(benchmark(lambda: loop.run_until_complete(ask()))) == rows
    loop.run_until_complete(connection.close())
