"""Natural batching: who shares a statement, and who must not suffer from whom."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import psycopg
import pytest

from servicedesk.wire import Wire
from tests.ticketd.conftest import postgres_store
from tests.ticketd.samples import a_ticket, add, connector, created, describe
from ticketd.batches import Creation, create_many
from ticketd.errors import OverloadedError
from ticketd.lanes import Lanes, LaneSettings
from ticketd.tickets import Ticket, patch

TICKETS = "SELECT count(*) FROM tickets"
EVENTS = "SELECT count(*) FROM outbox"


class Observed:
    """The sizes of the batches that were carried out, and the failures."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.failures: list[str] = []

    def batch(self, size: int, waited_seconds: float, took_seconds: float) -> None:
        assert waited_seconds >= 0
        assert took_seconds > 0
        self.sizes.append(size)

    def failure(self, kind: str) -> None:
        self.failures.append(kind)


class Gate:
    """Carries creations out, each batch only after it was let through."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = asyncio.Event()

    async def work(self, wire: Wire, items: Sequence[Creation]) -> Sequence[None]:
        self.entered.set()
        await self.open.wait()
        return await create_many(wire, items)


@asynccontextmanager
async def one_lane(
    url: str, gate: Gate, observed: Observed, *, most: int = 100, queue_limit: int = 1000
) -> AsyncIterator[Lanes[Creation, None]]:
    lanes = Lanes(
        settings=LaneSettings(
            connect=connector(url),
            in_tasks=True,
            now=time.monotonic,
            lanes=1,
            most=most,
            queue_limit=queue_limit,
            retry_seconds=5.0,
        ),
        work=gate.work,
        observer=observed,
    )
    running = asyncio.create_task(lanes.run())
    try:
        yield lanes
    finally:
        running.cancel()
        await asyncio.wait([running])


def creation(title: str = "Принтер") -> Creation:
    ticket = a_ticket()._replace(title=title)
    return Creation(ticket, created(ticket))


def count(url: str, statement: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return int(str(row[0])) if row else 0


def test_what_arrives_during_a_statement_shares_the_next_one(database_url: str) -> None:
    observed = Observed()

    async def act() -> None:
        gate = Gate()
        async with one_lane(database_url, gate, observed) as lanes:
            first = lanes.submit(creation())
            await gate.entered.wait()
            others = [lanes.submit(creation()) for _ in range(250)]
            gate.open.set()
            await asyncio.gather(first, *others)

    asyncio.run(act())
    assert observed.sizes == [1, 100, 100, 50]
    assert count(database_url, TICKETS) == count(database_url, EVENTS) == 251


def test_bad_row_alone_fails(database_url: str) -> None:
    """PostgreSQL takes no NUL in a text; validation refuses it long before."""
    observed = Observed()

    async def act() -> list[BaseException | None]:
        gate = Gate()
        async with one_lane(database_url, gate, observed) as lanes:
            first = lanes.submit(creation())
            await gate.entered.wait()
            titles = ["в порядке"] * 13 + ["x" * 201] + ["тоже"] * 6
            others = [lanes.submit(creation(title)) for title in titles]
            gate.open.set()
            await first
            return await asyncio.gather(*others, return_exceptions=True)

    outcomes = asyncio.run(act())
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [
        psycopg.errors.CheckViolation
    ]
    assert isinstance(outcomes[13], psycopg.errors.CheckViolation)
    assert observed.failures.count("split") >= 4
    assert count(database_url, TICKETS) == count(database_url, EVENTS) == 20


def test_request_given_up_before_it_was_taken_is_not_carried_out(database_url: str) -> None:
    async def act() -> None:
        gate = Gate()
        async with one_lane(database_url, gate, Observed()) as lanes:
            first = lanes.submit(creation())
            await gate.entered.wait()
            gone, staying = lanes.submit(creation()), lanes.submit(creation())
            waiting = asyncio.ensure_future(gone)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            gate.open.set()
            await asyncio.gather(first, staying)

    asyncio.run(act())
    assert count(database_url, TICKETS) == 2


def test_full_queue_refuses_at_once(database_url: str) -> None:
    async def act() -> None:
        gate = Gate()
        async with one_lane(database_url, gate, Observed(), queue_limit=3) as lanes:
            accepted = [lanes.submit(creation())]
            await gate.entered.wait()
            accepted += [lanes.submit(creation()) for _ in range(3)]
            with pytest.raises(OverloadedError):
                lanes.submit(creation())
            gate.open.set()
            await asyncio.gather(*accepted)

    asyncio.run(act())
    assert count(database_url, TICKETS) == 4


def test_texts_are_kept_whatever_encoding_the_url_prefers(database_url: str) -> None:
    async def act() -> None:
        async with postgres_store(f"{database_url}?client_encoding=LATIN1") as store:
            ticket = await add(store, assignee="Игорь")
            assert await store.get(ticket.id) == ticket
        async with postgres_store(database_url) as store:
            assert await store.get(ticket.id) == ticket

    asyncio.run(act())


def test_migration_of_a_column_under_prepared_statements_is_no_error(database_url: str) -> None:
    async def act() -> None:
        async with postgres_store(database_url) as store:
            ticket = await add(store)
            assert await store.get(ticket.id) == ticket
            with psycopg.connect(database_url) as connection:
                connection.execute("ALTER TABLE tickets ALTER assignee TYPE varchar(300)")
            for _ in range(4):
                assert await store.get(ticket.id) == ticket

    asyncio.run(act())


def test_changes_of_the_same_tickets_from_two_stores_never_deadlock(database_url: str) -> None:
    """Both change the same tickets at once, in opposite order: every change is made, once."""

    async def act() -> list[Ticket]:
        async with postgres_store(database_url) as one, postgres_store(database_url) as two:
            tickets = [await add(one) for _ in range(20)]

            def retitle(title: str, ticket: Ticket) -> Ticket:
                return patch({"title": title}, None, ticket.updated_at, ticket)

            for turn in range(15):
                await asyncio.gather(
                    *(one.change(t.id, partial(retitle, f"а{turn}"), describe) for t in tickets),
                    *(
                        two.change(t.id, partial(retitle, f"б{turn}"), describe)
                        for t in reversed(tickets)
                    ),
                )
            return [await one.get(ticket.id) for ticket in tickets]

    tickets = asyncio.run(act())
    assert {ticket.version for ticket in tickets} == {31}
    assert count(database_url, EVENTS) == 20 * 31
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert count(database_url, deadlocks) == 0


def test_row_that_the_driver_cannot_send_alone_fails_and_the_lane_goes_on(
    database_url: str,
) -> None:
    """A lone surrogate has no UTF-8, and that is no error of the database's."""

    async def act() -> list[BaseException | None]:
        gate = Gate()
        async with one_lane(database_url, gate, Observed()) as lanes:
            first = lanes.submit(creation())
            await gate.entered.wait()
            sendable = creation()
            unsendable = sendable._replace(ticket=sendable.ticket._replace(title="\ud800"))
            others = [lanes.submit(item) for item in (creation(), unsendable, creation())]
            gate.open.set()
            await first
            outcomes = await asyncio.gather(*others, return_exceptions=True)
            await lanes.submit(creation())
            return outcomes

    before, bad, after = asyncio.run(act())
    assert (before, after) == (None, None)
    assert isinstance(bad, UnicodeEncodeError)
    assert count(database_url, TICKETS) == count(database_url, EVENTS) == 4
