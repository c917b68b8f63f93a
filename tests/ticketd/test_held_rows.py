"""A ticket that somebody holds in a transaction of his own: its changes are refused after a moment,
and nobody else waits for it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from tests.ticketd.application import NEW, running, somebody_waits_for_a_lock, until

# Long enough that an answer in time is none that a request's own time-out gave.
PATIENCE = {"TICKETD_LANES": "1", "TICKETD_REQUEST_TIMEOUT": "20s"}


@pytest.fixture
def settings(database_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url} | PATIENCE


@contextmanager
def held(url: str, ticket: dict[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    """As by somebody who has begun a change in psql and is thinking."""
    with psycopg.connect(url) as holder:
        holder.execute("UPDATE tickets SET assignee = 'psql' WHERE id = %s", (ticket["id"],))
        yield holder
        holder.rollback()


async def until_it_waits(url: str, request: asyncio.Task[Any]) -> None:
    """For a lock; on a machine that stalls it may be over before that is seen."""

    async def waits() -> bool:
        return request.done() or await somebody_waits_for_a_lock(url)

    await until(waits)


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "another transaction" in answer.json()["detail"]
    assert 1 <= int(answer.headers["retry-after"]) <= 4


async def test_change_of_a_held_ticket_is_refused_and_its_lane_goes_on(
    settings: dict[str, str], database_url: str
) -> None:
    async with running(settings) as app:
        one, other = await app.create(), await app.create()
        with held(database_url, one):
            refused = asyncio.create_task(app.patch(one, priority="high"))
            await until_it_waits(database_url, refused)
            assert (await app.patch(other, priority="high")).status_code == 200
            assert_refused(await refused)
        assert (await app.patch(one, priority="high")).json()["version"] == 2
        metrics = (await app.client.get("/metrics")).text
        assert 'ticketd_database_errors_total{kind="held"} 1.0' in metrics


async def test_batch_with_held_tickets_is_made_without_them(
    settings: dict[str, str], database_url: str
) -> None:
    async with running(settings) as app:
        tickets = [await app.create() for _ in range(30)]
        with held(database_url, tickets[0]), held(database_url, tickets[20]):
            first = asyncio.create_task(app.patch(tickets[0], priority="low"))
            await until_it_waits(database_url, first)
            # Of these the lane takes all at once, when its first statement is given up.
            answers = await asyncio.gather(*(app.patch(each, priority="high") for each in tickets))
            for refused in (await first, answers.pop(20), answers.pop(0)):
                assert_refused(refused)
            assert [answer.status_code for answer in answers] == [200] * 28


async def test_held_table_is_waited_for_once_and_not_for_each_row(
    settings: dict[str, str], database_url: str
) -> None:
    """As while an index is made: reading goes on, and nothing can be changed."""
    async with running(settings) as app:
        tickets = [await app.create() for _ in range(40)]
        with psycopg.connect(database_url) as holder:
            holder.execute("LOCK TABLE tickets IN SHARE MODE")
            changes = [asyncio.create_task(app.patch(each, priority="low")) for each in tickets]
            for change in changes:
                assert_refused(await change)
            assert (await app.client.get("/tickets")).status_code == 200
        assert (await app.patch(tickets[0], priority="low")).status_code == 200


async def test_close_of_a_held_ticket_leaves_its_key_unused(
    settings: dict[str, str], database_url: str
) -> None:
    async with running(settings) as app:
        ticket = await app.create()
        close = partial(
            app.client.post,
            f"/tickets/{ticket['id']}/close",
            headers={"idempotency-key": "k", "if-match": "*"},
        )
        with held(database_url, ticket):
            assert_refused(await close())
        for _ in range(2):
            closed = await close()
            assert (closed.status_code, closed.json()["version"]) == (200, 2)


async def test_creation_waits_for_who_has_the_same_key_in_hand(
    settings: dict[str, str], database_url: str
) -> None:
    """It holds no row that others want, so its patience is that of its request."""
    async with running(settings) as app:
        ticket = await app.create()
        with psycopg.connect(database_url) as rival, held(database_url, ticket):
            rival.execute("LOCK TABLE idempotency_key IN SHARE MODE")
            headers = {"idempotency-key": "k"}
            creation = asyncio.create_task(app.client.post("/tickets", json=NEW, headers=headers))
            await until(partial(somebody_waits_for_a_lock, database_url))
            # Begun later, and over before.
            assert_refused(await app.patch(ticket, priority="high"))
            assert not creation.done()
            await asyncio.to_thread(rival.rollback)
            assert (await creation).status_code == 201
