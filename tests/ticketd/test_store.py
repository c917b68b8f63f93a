"""What a TicketStore promises; every test runs on both of them."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product

import pytest

from tests.ticketd.conftest import OpenStore
from tests.ticketd.samples import IDENTIFIERS, a_ticket, add, created, describe, everything
from ticketd.errors import StaleVersionError, TicketNotFoundError, TransitionForbiddenError
from ticketd.identifiers import first_after, first_not_before
from ticketd.tickets import PRIORITIES, STATUSES, Ticket, close, patch

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, UTC)


def test_created_ticket_comes_back_as_it_was(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store, assignee="Игорь", title="'; DROP TABLE tickets; --")
            assert await store.get(ticket.id) == ticket

    asyncio.run(act())


def test_unknown_ticket_is_not_found(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            unknown = IDENTIFIERS.next()
            with pytest.raises(TicketNotFoundError):
                await store.get(unknown)
            with pytest.raises(TicketNotFoundError):
                await store.change(unknown, partial(close, None, NOW), describe)

    asyncio.run(act())


def test_creating_twice_with_one_id_keeps_the_first(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            event = created(ticket)
            await store.create(ticket, event)
            assert await store.page(everything()) == [ticket]

    asyncio.run(act())


def test_change_is_kept_with_the_next_version(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            change = partial(patch, {"title": "Новое", "assignee": "Олег"}, None, NOW)
            changed = await store.change(ticket.id, change, describe)
            assert (changed.title, changed.assignee, changed.version) == ("Новое", "Олег", 2)
            assert changed.updated_at == NOW
            assert await store.get(ticket.id) == changed

    asyncio.run(act())


def test_change_of_nothing_writes_nothing(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            change = partial(patch, {"title": ticket.title}, None, NOW)
            assert await store.change(ticket.id, change, describe) == ticket
            assert await store.get(ticket.id) == ticket

    asyncio.run(act())


def test_refused_change_leaves_the_ticket_alone(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            with pytest.raises(StaleVersionError):
                await store.change(ticket.id, partial(close, frozenset({7}), NOW), describe)
            with pytest.raises(TransitionForbiddenError):
                await store.change(
                    ticket.id, partial(patch, {"status": "resolved"}, None, NOW), describe
                )
            assert await store.get(ticket.id) == ticket

    asyncio.run(act())


def test_concurrent_changes_are_all_kept(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store, description="")

            def append(mark: str, current: Ticket) -> Ticket:
                return patch({"description": current.description + mark}, None, NOW, current)

            marks = "абвгдежз"
            changes = (store.change(ticket.id, partial(append, mark), describe) for mark in marks)
            await asyncio.gather(*changes)
            found = await store.get(ticket.id)
            assert found.version == 1 + len(marks)
            assert sorted(found.description) == list(marks)

    asyncio.run(act())


def test_of_concurrent_changes_with_one_version_a_single_one_wins(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            changes = (
                store.change(
                    ticket.id, partial(patch, {"title": f"т{n}"}, frozenset({1}), NOW), describe
                )
                for n in range(8)
            )
            outcomes = await asyncio.gather(*changes, return_exceptions=True)
            won = [outcome for outcome in outcomes if isinstance(outcome, Ticket)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, StaleVersionError)]
            assert (len(won), len(lost)) == (1, 7)
            assert await store.get(ticket.id) == won[0]

    asyncio.run(act())


def test_page_is_newest_first_and_limited(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            tickets = [await add(store) for _ in range(5)]
            assert await store.page(everything(limit=3)) == tickets[:1:-1]
            assert await store.page(everything(below_id=tickets[2].id)) == tickets[1::-1]

    asyncio.run(act())


def test_every_combination_of_filters_finds_exactly_its_tickets(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            people = (None, "Анна", "Олег")
            tickets = [
                await add(store, status=status, priority=priority, assignee=person)
                for status, priority, person in product(STATUSES[:2], PRIORITIES[:2], people)
            ]
            for status, priority, person in product(
                (None, "new"), (None, "normal"), (None, "Олег")
            ):
                query = everything(status=status, priority=priority, assignee=person)
                expected = [
                    ticket
                    for ticket in reversed(tickets)
                    if status in (None, ticket.status)
                    and priority in (None, ticket.priority)
                    and person in (None, ticket.assignee)
                ]
                assert await store.page(query) == expected

    asyncio.run(act())


def test_bounds_of_creation_are_exclusive(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            ticket = await add(store)
            at, instant = ticket.created_at, timedelta(microseconds=1)
            for after, before, found in (
                (at - instant, at + instant, [ticket]),
                (at, at + instant, []),
                (at - instant, at, []),
            ):
                query = everything(from_id=first_after(after), below_id=first_not_before(before))
                assert await store.page(query) == found

    asyncio.run(act())


def test_paging_while_tickets_are_created_shows_every_old_one_once(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            old = [(await add(store)).id for _ in range(60)]
            stop = asyncio.Event()

            async def keep_creating() -> int:
                count = 0
                while not stop.is_set():
                    await add(store)
                    count += 1
                    await asyncio.sleep(0)
                return count

            creating = asyncio.create_task(keep_creating())
            seen = []
            query = everything(limit=7)
            while page := await store.page(query):
                seen += [ticket.id for ticket in page]
                query = everything(limit=7, below_id=page[-1].id)
                await asyncio.sleep(0)
            stop.set()
            assert await creating > 0
            assert len(seen) == len(set(seen))
            assert [found for found in seen if found in set(old)] == old[::-1]

    asyncio.run(act())


def test_tickets_of_another_order_of_arrival_are_listed_by_id(open_store: OpenStore) -> None:
    async def act() -> None:
        async with open_store() as store:
            first, second = a_ticket(), a_ticket()
            await store.create(second, created(second))
            await store.create(first, created(first))
            assert await store.page(everything()) == [second, first]

    asyncio.run(act())
