"""Statements on a wire: what goes out in binary arrives, and what fails leaves no trace."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicedesk import binary
from servicedesk.database import connect
from servicedesk.wire import Statement, Wire
from tests.ticketd.conftest import postgres_store
from tests.ticketd.samples import add

Act = Callable[[Wire], Awaitable[None]]
TEXTS = st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
MOMENTS = st.datetimes(timezones=st.just(UTC))
ECHO = Statement(
    "echo",
    "SELECT $1::uuid[], $2::text[], $3::text[], $4::int2[], $5::int8[], $6::timestamptz[],"
    " $7::text, $8::int2, $9::int8, $10::timestamptz",
)


def on_wire(url: str, act: Act) -> None:
    async def run() -> None:
        wire = Wire(await connect(url, application="wire"))
        try:
            await act(wire)
        finally:
            await wire.close()

    asyncio.run(run())


async def ask(wire: Wire, sql: str, *parameters: bytes | None) -> list[tuple[Any, ...]]:
    return wire.rows(await wire.run(Statement(sql, sql), parameters), tuple)


COLUMNS = st.fixed_dictionaries(
    {
        "uuids": st.lists(st.uuids(), max_size=5),
        "texts": st.lists(st.none() | TEXTS, max_size=5),
        "plain": st.lists(TEXTS, max_size=5),
        "int2s": st.lists(st.integers(-(2**15), 2**15 - 1), max_size=5),
        "int8s": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
        "moments": st.lists(st.none() | MOMENTS, max_size=5),
    }
)
FIXTURES = [HealthCheck.function_scoped_fixture]


@settings(max_examples=60, deadline=None, suppress_health_check=FIXTURES)
@given(columns=COLUMNS)
def test_every_value_arrives_as_it_was(database_url: str, columns: dict[str, list[Any]]) -> None:
    names = ("uuids", "texts", "plain", "int2s", "int8s", "moments")
    arrays = [columns[name] for name in names]
    uuids, texts, plain, int2s, int8s, moments = arrays

    async def act(wire: Wire) -> None:
        text, moment = next(iter(texts), None), next(iter(moments), None)
        small, large = next(iter(int2s), 0), next(iter(int8s), 0)
        parameters = [
            binary.uuids(uuids),
            binary.texts(texts),
            binary.utf8s([value.encode() for value in plain]),
            binary.int2s(int2s),
            binary.int8s(int8s),
            binary.timestamptzs(moments),
            binary.text(text),
            binary.int2(small),
            binary.int8(large),
            binary.timestamptz(moment),
        ]
        (row,) = wire.rows(await wire.run(ECHO, parameters), tuple)
        assert list(row) == [*arrays, text, small, large, moment]

    on_wire(database_url, act)


def test_times_are_utc_whatever_the_server_says(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'".encode())

    async def act() -> None:
        async with postgres_store(database_url) as store:
            ticket = await add(store)
            found = await store.get(ticket.id)
            assert found == ticket
            assert found.created_at.utcoffset() == timedelta()

    asyncio.run(act())


def test_refused_statement_leaves_the_wire_usable(database_url: str) -> None:
    async def act(wire: Wire) -> None:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await ask(wire, "SELECT 1 / $1::int8", binary.int8(0))
            with pytest.raises(psycopg.errors.SyntaxError):
                await ask(wire, "SELEKT")
            assert await ask(wire, "SELECT $1::int8", binary.int8(7)) == [(7,)]

    on_wire(database_url, act)


def test_parameters_beyond_what_the_socket_takes_at_once_arrive_whole(database_url: str) -> None:
    async def act(wire: Wire) -> None:
        sizes = [(30_000_000,)]
        assert await ask(wire, "SELECT length($1::text)", b"x" * 30_000_000) == sizes
        (row,) = await ask(wire, "SELECT repeat('y', $1::int8::int)", binary.int8(30_000_000))
        assert len(row[0]) == 30_000_000

    on_wire(database_url, act)


@pytest.mark.parametrize("when", ["before", "during"])
def test_lost_connection_is_told_and_stays_lost(database_url: str, when: str) -> None:
    async def act(wire: Wire) -> None:
        ((pid,),) = await ask(wire, "SELECT pg_backend_pid()")

        def terminate() -> None:
            with psycopg.connect(database_url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

        if when == "before":
            await asyncio.to_thread(terminate)
            waiting = asyncio.create_task(ask(wire, "SELECT 1"))
        else:
            waiting = asyncio.create_task(ask(wire, "SELECT pg_sleep(60)"))
            await asyncio.sleep(0)
            await asyncio.to_thread(terminate)
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(psycopg.OperationalError):
            await ask(wire, "SELECT 1")

    on_wire(database_url, act)


def test_answer_comes_when_the_event_loop_does_not_tell_of_it(database_url: str) -> None:
    async def act() -> list[tuple[Any, ...]]:
        connection = await connect(database_url, application="wire")
        wire = Wire(connection)
        # As uvloop does at times with the number of a socket that another had just before.
        asyncio.get_running_loop().remove_reader(connection.pgconn.socket)
        try:
            return await asyncio.wait_for(ask(wire, "SELECT 1"), 5)
        finally:
            await wire.close()

    assert asyncio.run(act()) == [(1,)]
