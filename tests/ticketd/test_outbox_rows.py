"""What the PostgreSQL store leaves in the outbox, and what a dying connection does to it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import psycopg
import pytest
from psycopg.rows import dict_row

from servicedesk.bucket import bucket_of
from tests.ticketd.conftest import postgres_store
from tests.ticketd.lossy import lossy
from tests.ticketd.samples import HEADERS, IDENTIFIERS, add, connector, created, describe
from ticketd.errors import StaleVersionError
from ticketd.events import change_event
from ticketd.representation import ticket_json
from ticketd.tickets import Ticket, close, patch

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, UTC)


def outbox(url: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM outbox ORDER BY id").fetchall()


def test_every_version_has_one_event_in_order(database_url: str) -> None:
    async def act() -> list[Ticket]:
        async with postgres_store(database_url) as store:
            ticket = await add(store)
            started = partial(patch, {"status": "in_progress"}, None, NOW)
            versions = [ticket, await store.change(ticket.id, started, describe)]
            retitled = partial(patch, {"title": "Иначе"}, None, NOW)
            versions.append(await store.change(ticket.id, retitled, describe))
            versions.append(await store.change(ticket.id, partial(close, None, NOW), describe))
            versions.append(await store.change(ticket.id, started, describe))
            return versions

    versions = asyncio.run(act())
    rows = outbox(database_url)
    assert [row["event_type"] for row in rows] == [
        "ticket.created",
        "ticket.updated",
        "ticket.updated",
        "ticket.closed",
        "ticket.reopened",
    ]
    assert [row["sequence"] for row in rows] == [1, 2, 3, 4, 5]
    assert len({row["event_id"] for row in rows}) == 5
    for row, ticket in zip(rows, versions, strict=True):
        assert row["bucket"] == bucket_of(str(ticket.id))
        assert row["aggregate_id"] == ticket.id
        assert row["headers"] == HEADERS.decode()
        assert row["payload"] == ticket_json(ticket).decode()


def test_lost_races_and_repeats_leave_no_events(database_url: str) -> None:
    async def act() -> None:
        async with postgres_store(database_url) as store:
            ticket = await add(store)
            await store.create(ticket, created(ticket))
            changes = (
                store.change(
                    ticket.id, partial(patch, {"title": f"т{n}"}, frozenset({1}), NOW), describe
                )
                for n in range(8)
            )
            outcomes = await asyncio.gather(*changes, return_exceptions=True)
            assert sum(isinstance(outcome, StaleVersionError) for outcome in outcomes) == 7

    asyncio.run(act())
    assert [row["sequence"] for row in outbox(database_url)] == [1, 2]


async def kill_connections(url: str, *, times: int, done: Callable[[], int]) -> int:
    """Ends the store's connections again and again, each time after some more work was `done`;
    returns how many it has ended."""
    killed = 0
    connection = await connector(url)()
    async with connection:
        for _ in range(times):
            before = done()
            cursor = await connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'store'"
            )
            row = await cursor.fetchone()
            killed += int(str(row[0])) if row else 0
            async with asyncio.timeout(20):
                while done() < before + 10:
                    await asyncio.sleep(0.005)
    return killed


def test_creates_survive_killed_connections_each_exactly_once(database_url: str) -> None:
    async def act() -> list[Ticket]:
        async with postgres_store(database_url) as store:
            done = asyncio.Event()
            tickets: list[Ticket] = []

            async def keep_creating() -> None:
                while not done.is_set():
                    tickets.append(await add(store))

            creators = [asyncio.create_task(keep_creating()) for _ in range(8)]
            killed = await kill_connections(database_url, times=150, done=lambda: len(tickets))
            assert killed >= 20
            done.set()
            await asyncio.gather(*creators)
            return tickets

    tickets = asyncio.run(act())
    with psycopg.connect(database_url) as connection:
        kept = [row[0] for row in connection.execute("SELECT id FROM tickets").fetchall()]
    assert sorted(kept) == sorted(ticket.id for ticket in tickets)
    assert sorted(row["aggregate_id"] for row in outbox(database_url)) == sorted(kept)


def test_changes_survive_killed_connections_each_exactly_once(database_url: str) -> None:
    async def act() -> tuple[Ticket, int]:
        async with postgres_store(database_url) as store:
            tickets = [await add(store, description="") for _ in range(4)]
            done = asyncio.Event()
            applied: list[Ticket] = []

            def append(current: Ticket) -> Ticket:
                longer = (current.description + "я")[-100:] + str(current.version)
                return patch({"description": longer}, None, datetime.now(UTC), current)

            async def keep_changing(ticket: Ticket) -> None:
                while not done.is_set():
                    applied.append(await store.change(ticket.id, append, describe))

            changers = [asyncio.create_task(keep_changing(ticket)) for ticket in tickets]
            killed = await kill_connections(database_url, times=20, done=lambda: len(applied))
            assert killed >= 20
            done.set()
            await asyncio.gather(*changers)
            versions = [(await store.get(ticket.id)).version for ticket in tickets]
            return applied[-1], sum(versions) - len(tickets) - len(applied)

    last, surplus = asyncio.run(act())
    assert last.version > 1
    assert surplus == 0
    rows = outbox(database_url)
    by_ticket: dict[object, list[int]] = {}
    for row in rows:
        by_ticket.setdefault(row["aggregate_id"], []).append(row["sequence"])
    assert all(found == list(range(1, len(found) + 1)) for found in by_ticket.values())


@pytest.mark.parametrize("losses", [1, 3])
def test_create_whose_answer_is_lost_happens_once(database_url: str, losses: int) -> None:
    async def act() -> Ticket:
        async with (
            lossy(database_url, b"ticket.created", losses) as url,
            postgres_store(url) as store,
        ):
            return await add(store)

    ticket = asyncio.run(act())
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT id FROM tickets").fetchall() == [(ticket.id,)]
    assert [row["sequence"] for row in outbox(database_url)] == [1]


def test_change_whose_answer_is_lost_is_found_to_be_ours(database_url: str) -> None:
    async def act() -> None:
        async with (
            lossy(database_url, b"ticket.closed", 1) as url,
            postgres_store(url) as store,
        ):
            ticket = await add(store)
            closed = await store.change(ticket.id, partial(close, frozenset({1}), NOW), describe)
            assert (closed.status, closed.version) == ("closed", 2)
            assert await store.get(ticket.id) == closed

    asyncio.run(act())
    assert [row["sequence"] for row in outbox(database_url)] == [1, 2]


def test_event_carries_the_reason_for_closing(database_url: str) -> None:

    async def act() -> Ticket:
        async with postgres_store(database_url) as store:
            ticket = await add(store)
            with_reason = partial(change_event, IDENTIFIERS.next(), HEADERS, "Починено")
            return await store.change(ticket.id, partial(close, None, NOW), with_reason)

    closed = asyncio.run(act())
    payload = orjson.loads(outbox(database_url)[-1]["payload"])
    assert payload == orjson.loads(ticket_json(closed)) | {"reason": "Починено"}
