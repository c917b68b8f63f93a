"""What reads cost at the worst: many of one ticket that has just gone from the cache, and a Redis
that is slow or away."""

import asyncio
import io
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest

from deploy.local.valkey import Valkey
from servicedesk.logs import Log
from servicedesk.wire import Connection
from tests.ticketd.application import Running, running, until
from tests.ticketd.redis_servers import Route, client, routed, valkey
from tests.ticketd.test_cache import caching, count, read, until_it_hits
from tests.ticketd.test_replays import metric, until_true
from ticketd.cache import TicketCache
from ticketd.gate import Gate
from ticketd.metrics import Metrics
from ticketd.redis_link import LinkSettings, RedisLink
from ticketd.redis_wire import RedisAddress
from ticketd.store import Shown

READERS = 200
LANES, BATCH = 2, 128
SETTINGS = {"TICKETD_LANES": str(LANES), "TICKETD_BATCH_LIMIT": str(BATCH)}
# Each lane takes what is there when it is woken, and then whole batches of what has gathered.
MOST_STATEMENTS = LANES + math.ceil(READERS / BATCH)


def is_left_alone(url: str) -> bool:
    """Has every connection of ticketd ended, and so reported what it has read?"""
    with psycopg.connect(url) as connection:
        query = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND"
        found = connection.execute(f"{query} application_name LIKE 'ticketd%'")
        return found.rowcount == 0


async def statements(url: str) -> int:
    """How many have looked into the table of tickets, which has one row."""
    await until_true(lambda: is_left_alone(url))
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT seq_scan + idx_scan, seq_tup_read + idx_tup_fetch"
            " FROM pg_stat_user_tables WHERE relname = 'tickets'"
        ).fetchone()
    assert row is not None
    assert row[1] <= row[0], "a statement reads the row once"
    return int(row[0])


async def from_the_database(apps: list[Running]) -> int:
    """How many reads the cache did not answer."""
    return sum([await count(app, outcome) for app in apps for outcome in ("miss", "bypass")])


async def read_many(stack: AsyncExitStack, app: Running, path: str) -> list[asyncio.Task[Any]]:
    """Readers, each on a connection of its own."""
    limits = httpx.Limits(max_connections=None)
    url = app.client.base_url
    reader = await stack.enter_async_context(
        httpx.AsyncClient(base_url=url, timeout=60, limits=limits)
    )
    return [asyncio.create_task(reader.get(path)) for _ in range(READERS)]


@pytest.mark.parametrize("workers", [1, 2])
def test_readers_of_a_ticket_that_has_gone_from_the_cache_share_statements(
    database_url: str, tmp_path: Path, workers: int
) -> None:
    async def stampede(server: Valkey, ticket: dict[str, Any]) -> int:
        """How many reads before it went to the database, a statement each."""
        path = f"/tickets/{ticket['id']}"
        urls = [server.url()] * workers
        async with (
            caching(database_url, *urls, **SETTINGS) as apps,
            AsyncExitStack() as stack,
            await psycopg.AsyncConnection.connect(database_url) as connection,
        ):
            for app in apps:
                await until_it_hits(app, ticket)
            before = await from_the_database(apps)
            await connection.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            server.flush()
            readers = [task for app in apps for task in await read_many(stack, app, path)]

            async def all_wait() -> bool:
                return await from_the_database(apps) == before + workers * READERS

            await until(all_wait, 20)
            await connection.commit()
            answers = await asyncio.gather(*readers)
            assert {(answer.status_code, answer.content) for answer in answers} == {
                (200, (await read(apps[0], ticket)).content)
            }
            for app in apps:
                await until_it_hits(app, ticket)
            return await from_the_database(apps) - workers * READERS

    async def act(server: Valkey) -> None:
        async with running({"DATABASE_URL": database_url}) as app:
            ticket = await app.create()
        before = await statements(database_url)
        before += await stampede(server, ticket)
        found = await statements(database_url) - before
        assert 1 <= found <= workers * MOST_STATEMENTS

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


@asynccontextmanager
async def bare_cache(server: Valkey) -> AsyncIterator[TicketCache]:
    """Connected, and without the gate and the requests around it."""

    async def read_owner() -> str:
        return "nobody"

    async def connect() -> Connection:
        raise AssertionError

    log = Log("ticketd", stream=io.StringIO())
    settings = LinkSettings(
        address=RedisAddress.from_url(server.url()),
        read_owner=read_owner,
        exchange_seconds=5.0,
        in_tasks=True,
        now=time.monotonic,
    )
    link = RedisLink(settings, Metrics().redis(), log)
    gate = Gate(connect=connect, my_server=link.server, now=time.monotonic, in_tasks=True, log=log)
    cache = TicketCache(link, gate, seconds=30.0, wall_clock=time.time, random_bytes=os.urandom)
    running_link = asyncio.create_task(link.run())
    await until_true(lambda: link.is_up)
    yield cache
    running_link.cancel()
    await asyncio.wait([running_link])


def test_equal_questions_and_equal_entries_of_one_command_go_to_redis_once(tmp_path: Path) -> None:
    one, two, shown = UUID(int=1), UUID(int=2), Shown(1, b"{}")

    async def act(server: Valkey) -> None:
        async with bare_cache(server) as cache:

            async def find(ticket_id: UUID) -> bytes:
                value = await cache.find(cache.key(ticket_id))
                assert value is not None
                return value

            async def find_many() -> list[bytes]:
                return await asyncio.gather(
                    *(find(each) for _ in range(100) for each in (one, two))
                )

            with client(server) as there:

                def gets() -> int:
                    return int(there.info("commandstats")["cmdstat_get"]["calls"])

                leases = await find_many()
                assert (len(set(leases)), gets()) == (1, 2)
                for _ in range(100):
                    cache.fill(cache.key(one), leases[0], shown)
                    cache.fill(cache.key(one), b"L of before", Shown(9, b"old"))
                found = await find_many()
                assert gets() == 2 + 2 + 2, "two different fillings, two look-ups"
                read_now = [cache.read(value) for value in found]
                assert [each and each[0] for each in read_now] == [shown, None] * 100

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def silence(server: Valkey, route: Route) -> None:
    del server
    route.slow_down()


def take_away(server: Valkey, route: Route) -> None:
    del route
    server.stop()


@pytest.mark.parametrize("disturb", [silence, take_away])
def test_reads_wait_for_a_redis_that_is_slow_or_away_once_and_then_not_at_all(
    database_url: str, tmp_path: Path, disturb: Callable[[Valkey, Route], None]
) -> None:
    complaints = []

    def complain(_: object, told: dict[str, Any]) -> None:
        if "future" in told:  # the route has complaints of its own
            complaints.append(told)

    async def act(server: Valkey) -> None:
        asyncio.get_running_loop().set_exception_handler(complain)
        async with (
            routed(server) as (url, route),
            caching(database_url, url, TICKETD_REDIS_TIMEOUT="1s") as (app,),
        ):
            ticket = await app.create()
            await until_it_hits(app, ticket)
            disturb(server, route)
            began = time.monotonic()
            # Those of one exchange, which wait for its end together.
            await asyncio.gather(*(read(app, ticket) for _ in range(20)))
            assert await metric(app, "ticketd_redis_up") == 0
            bypassed = await count(app, "bypass")
            for _ in range(30):
                await read(app, ticket)
            assert time.monotonic() - began < 10, "the circuit is open"
            assert await count(app, "bypass") == bypassed + 30
            assert len(app.events("redis_away")) == 1

            async def has_tried_again() -> bool:
                return await metric(app, "ticketd_redis_errors_total") >= 3

            await until(has_tried_again, 20)

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))
    assert complaints == []
