"""Idempotency keys in PostgreSQL: who wins between connections and processes, what a dying
connection or process does to them, and how they expire."""

import asyncio
import io
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from servicedesk.logs import Log
from servicedesk.wire import Wire
from tests.conftest import StartDaemon
from tests.ticketd.application import NEW, somebody_waits_for_a_lock, until
from tests.ticketd.conftest import postgres_store
from tests.ticketd.lossy import NEVER_GIVES_UP, lossy, mute
from tests.ticketd.samples import a_ticket, add, connector, created, describe
from ticketd.errors import OverloadedError, TransitionForbiddenError
from ticketd.expiry import ROWS, KeyExpiry
from ticketd.idempotency import Kept, Key
from ticketd.keyed import KeyedCreation, create_keyed
from ticketd.representation import ticket_json
from ticketd.store import PostgresTicketStore
from ticketd.tickets import Ticket, close

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, UTC)
DAY_SECONDS = 86_400.0


def a_key(number: int, sent: bytes = b"s" * 16) -> Key:
    return Key(number.to_bytes(16, "big"), sent)


async def create_once(store: PostgresTicketStore, key: Key) -> UUID:
    ticket = a_ticket()
    return await store.create_once(ticket, created(ticket), key)


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_processes_with_the_same_keys_make_one_ticket_a_key(database_url: str) -> None:
    async def act() -> None:
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(postgres_store(database_url)) for _ in "abc"]
            numbers = [number for _ in range(5) for number in range(60)]
            calls = [
                create_once(stores[place % 3], a_key(number))
                for place, number in enumerate([*numbers, *reversed(numbers)])
            ]
            ids = await asyncio.gather(*calls)
            by_key: dict[int, set[UUID]] = {}
            for number, found in zip([*numbers, *reversed(numbers)], ids, strict=True):
                by_key.setdefault(number, set()).add(found)
            assert {len(found) for found in by_key.values()} == {1}

    asyncio.run(act())
    assert rows(database_url, "SELECT count(*) FROM tickets") == [(60,)]
    assert rows(database_url, "SELECT count(*), count(DISTINCT aggregate_id) FROM outbox") == [
        (60, 60)
    ]


def test_loser_waits_for_the_commit_of_a_winner_still_under_way(database_url: str) -> None:
    async def act() -> None:
        async with (
            postgres_store(database_url) as store,
            await psycopg.AsyncConnection.connect(database_url) as rival,
        ):
            for commits in (True, False):
                await rival.execute(
                    "INSERT INTO idempotency_key (digest, fingerprint, ticket_id)"
                    " VALUES (%s, %s, %s)",
                    (a_key(commits).digest.hex(), (b"s" * 16).hex(), UUID(int=7)),
                )
                waiting = asyncio.create_task(create_once(store, a_key(commits)))
                await until(partial(somebody_waits_for_a_lock, database_url))
                await (rival.commit() if commits else rival.rollback())
                assert (await waiting == UUID(int=7)) == commits

    asyncio.run(act())
    assert rows(database_url, "SELECT count(*) FROM tickets") == [(1,)]


def test_key_that_expires_between_losing_and_looking_is_used_anew(database_url: str) -> None:
    """The wire removes what the statement has just lost against."""

    class Forgetful(Wire):
        forgets = 2

        async def run(self, statement: Any, parameters: Any) -> Any:
            if statement.name == "find_kept" and self.forgets:
                self.forgets -= 1
                with psycopg.connect(database_url) as other:
                    other.execute("DELETE FROM idempotency_key")
            return await super().run(statement, parameters)

    async def act() -> None:
        async with postgres_store(database_url) as store:
            first = await create_once(store, a_key(1))
        wire = Forgetful(await connector(database_url)())
        ticket = a_ticket()
        (kept,) = await create_keyed(wire, [KeyedCreation(ticket, created(ticket), a_key(1))])
        assert kept == Kept(b"s" * 16, ticket.id, None)
        assert kept.ticket_id != first
        await wire.close()

    asyncio.run(act())


def test_key_that_expires_every_time_is_given_up(database_url: str) -> None:
    class Blind(Wire):
        async def run(self, statement: Any, parameters: Any) -> Any:
            if statement.name == "find_kept":
                parameters = [b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0b\x86"]
            return await super().run(statement, parameters)

    async def act() -> None:
        async with postgres_store(database_url) as store:
            await create_once(store, a_key(1))
        wire = Blind(await connector(database_url)())
        ticket = a_ticket()
        with pytest.raises(OverloadedError):
            await create_keyed(wire, [KeyedCreation(ticket, created(ticket), a_key(1))])
        await wire.close()

    asyncio.run(act())


@pytest.mark.parametrize("losses", [1, 3])
def test_creation_whose_answer_is_lost_is_found_to_be_its_own(
    database_url: str, losses: int
) -> None:
    async def act() -> None:
        async with (
            lossy(database_url, b"ticket.created", losses) as url,
            postgres_store(url) as store,
        ):
            ticket = a_ticket()
            assert await store.create_once(ticket, created(ticket), a_key(1)) == ticket.id

    asyncio.run(act())
    assert rows(database_url, "SELECT count(*) FROM outbox") == [(1,)]


def test_change_whose_answer_is_lost_is_found_to_be_its_own(database_url: str) -> None:
    async def act() -> None:
        async with (
            lossy(database_url, b"ticket.closed", 1) as url,
            postgres_store(url) as store,
        ):
            ticket = await add(store)
            change = partial(close, frozenset({1}), NOW)
            closed = await store.change_once(ticket.id, change, describe, a_key(1))
            assert isinstance(closed, Ticket)
            assert closed.version == 2
            again = await store.change_once(ticket.id, change, describe, a_key(1))
            assert again == Kept(b"s" * 16, ticket.id, ticket_json(closed))

    asyncio.run(act())
    assert rows(database_url, "SELECT sequence FROM outbox ORDER BY id") == [(1,), (2,)]


def test_lost_race_leaves_the_key_unused(database_url: str) -> None:
    async def act() -> None:
        async with (
            postgres_store(database_url) as store,
            postgres_store(database_url) as other,
        ):
            ticket = await add(store)
            change = partial(close, None, NOW)
            outcomes = await asyncio.gather(
                *(
                    each.change_once(ticket.id, change, describe, a_key(number))
                    for number, each in enumerate((store, other) * 4)
                ),
                return_exceptions=True,
            )
            refused = [each for each in outcomes if isinstance(each, TransitionForbiddenError)]
            assert len(refused) == 7

    asyncio.run(act())
    assert rows(database_url, "SELECT count(*) FROM idempotency_key") == [(1,)]


async def keep_killing(url: str, done: Callable[[], int]) -> int:
    """Ends the stores' connections again and again while work gets done; how many it were."""
    killed = 0
    async with await connector(url)() as connection:
        for _ in range(60):
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


def test_keys_hold_while_connections_are_killed(database_url: str) -> None:
    """Two processes are asked for the same keys in turn, and each key makes one ticket."""
    found: dict[int, set[UUID]] = {}

    async def act() -> None:
        async with (
            postgres_store(database_url) as store,
            postgres_store(database_url) as other,
        ):
            stop = asyncio.Event()

            async def keep_creating(each: PostgresTicketStore) -> None:
                number = 0
                while not stop.is_set():
                    found.setdefault(number, set()).add(await create_once(each, a_key(number)))
                    number += 1

            callers = [asyncio.create_task(keep_creating(each)) for each in (store, other) * 4]
            assert await keep_killing(database_url, lambda: len(found)) >= 20
            stop.set()
            await asyncio.gather(*callers)

    asyncio.run(act())
    assert {len(ids) for ids in found.values()} == {1}
    kept = {row[0] for row in rows(database_url, "SELECT id FROM tickets")}
    assert kept == set.union(*found.values())
    assert rows(database_url, "SELECT count(*) FROM outbox") == [(len(kept),)]


def test_process_killed_between_commit_and_answer_has_made_the_ticket(
    start_daemon: StartDaemon, database_url: str
) -> None:
    headers = {"idempotency-key": '"k"'}

    async def committed() -> bool:
        return rows(database_url, "SELECT count(*) FROM tickets") == [(1,)]

    async def killed() -> None:
        async with (
            mute(database_url, b"ticket.created") as url,
            httpx.AsyncClient(timeout=60) as client,
        ):
            environment = {"DATABASE_URL": url} | NEVER_GIVES_UP
            daemon = await asyncio.to_thread(start_daemon, "ticketd", environment)
            await asyncio.to_thread(daemon.wait_ready)
            asking = asyncio.create_task(
                client.post(f"{daemon.url}/tickets", json=NEW, headers=headers)
            )
            await until(committed)
            daemon.kill()
            with pytest.raises(httpx.TransportError):
                await asking

    asyncio.run(killed())
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url}).wait_ready()
    answer = httpx.post(f"{daemon.url}/tickets", json=NEW, headers=headers)
    assert answer.status_code == 201
    assert answer.headers["idempotency-replayed"] == "true"
    assert rows(database_url, "SELECT id::text FROM tickets") == [(answer.json()["id"],)]
    assert httpx.get(daemon.url + answer.headers["location"]).content == answer.content


def test_expiry_outlives_a_database_that_is_not_migrated(empty_database_url: str) -> None:
    async def act() -> None:
        stream = io.StringIO()
        log = Log("t", stream=stream)
        expiry = KeyExpiry(connector(empty_database_url), DAY_SECONDS, log, every_seconds=0.01)
        running = asyncio.create_task(expiry.run())

        async def has_tried_twice() -> bool:
            assert not running.done()
            return stream.getvalue().count("UndefinedTable") >= 2

        await until(has_tried_twice)
        running.cancel()

    asyncio.run(act())


def test_keys_expire_a_few_at_a_time_and_only_when_they_are_old(database_url: str) -> None:
    old = 2 * ROWS + 10
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO idempotency_key SELECT lpad(to_hex(n), 32, '0')::uuid,"
            " gen_random_uuid(), gen_random_uuid(), NULL,"
            " now() - make_interval(secs => CASE WHEN n > 5 THEN 86401 ELSE 86000 END)"
            " FROM generate_series(1, %s) AS n",
            (old + 5,),
        )

    async def act() -> None:
        expiry = KeyExpiry(connector(database_url), DAY_SECONDS, Log("t", stream=io.StringIO()))
        # A key that somebody holds is left for the next time, and nobody waits.
        async with await psycopg.AsyncConnection.connect(database_url) as holder:
            await holder.execute(
                "SELECT FROM idempotency_key WHERE digest = lpad(to_hex(9), 32, '0')::uuid"
                " FOR UPDATE"
            )
            both = await asyncio.gather(expiry.expire(), expiry.expire())
            assert sum(both) == old - 1
        assert await expiry.expire() == 1
        assert await expiry.expire() == 0

    asyncio.run(act())
    assert rows(database_url, "SELECT count(*) FROM idempotency_key") == [(5,)]
