"""Reads from the cache: never older than a change that was answered, whichever worker is asked and
whatever becomes of Redis meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from deploy.local.valkey import Valkey
from tests.support.processes import free_port
from tests.ticketd.application import Running, running, until
from tests.ticketd.redis_servers import client, routed, valkey
from tests.ticketd.test_replays import (
    assert_ready,
    flush,
    kill_and_lose,
    metric,
    restart,
    until_true,
)
from ticketd.gate import LEASE_SECONDS

OUTCOME = 'ticketd_cache_reads_total{outcome="%s"}'
# So long that a busy machine is not taken for a slow Redis.
PATIENCE = {"TICKETD_REDIS_TIMEOUT": "5s", "TICKETD_REQUEST_TIMEOUT": "30s"}


@asynccontextmanager
async def caching(database_url: str, *redis_urls: str, **more: str) -> AsyncIterator[list[Running]]:
    """Workers with the cache on, one for each URL."""
    settings = {"DATABASE_URL": database_url, "TICKETD_CACHE": "true"} | PATIENCE | more
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(settings | {"REDIS_URL": url}))
            for url in redis_urls
        ]


async def count(app: Running, outcome: str) -> int:
    text = (await app.client.get("/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(OUTCOME % outcome)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def read(app: Running, ticket: Mapping[str, Any]) -> httpx.Response:
    answer = await app.client.get(f"/tickets/{ticket['id']}")
    assert answer.status_code == 200
    return answer


async def until_it_hits(app: Running, ticket: Mapping[str, Any], **headers: str) -> httpx.Response:
    """The answer that came from the cache. Underscores in the names of headers stand for dashes."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answers: list[httpx.Response] = []

    async def hits() -> bool:
        before = await count(app, "hit")
        answers.append(await app.client.get(f"/tickets/{ticket['id']}", headers=names))
        return await count(app, "hit") > before

    await until(hits)
    return answers[-1]


def gate(url: str) -> tuple[int, str | None]:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT generation, server FROM cache_gate").fetchone()
    assert row is not None
    return row[0], row[1]


def has_generation(url: str, least: int) -> bool:
    return gate(url)[0] >= least


def test_hit_is_answered_as_from_the_database_and_without_it(
    database_url: str, valkey_url: str
) -> None:
    async def act() -> None:
        async with caching(database_url, valkey_url) as (app,):
            ticket = await app.create(description="العربية 🖨️")
            first = await read(app, ticket)
            await until_it_hits(app, ticket)
            with psycopg.connect(database_url) as connection:
                connection.execute("UPDATE tickets SET title = 'never shown', version = 7")
            hit = await until_it_hits(app, ticket)
            assert (hit.content, hit.headers["etag"]) == (first.content, first.headers["etag"])
            answer = await until_it_hits(app, ticket, if_none_match='"1"')
            assert (answer.status_code, answer.headers["etag"]) == (304, '"1"')
            text = (await app.client.get("/metrics")).text
            assert "ticketd_cache_age_seconds_bucket" in text

    asyncio.run(act())


def test_entry_expires(database_url: str, valkey_url: str) -> None:
    async def act() -> None:
        async with caching(database_url, valkey_url, TICKETD_CACHE_TTL="200ms") as (app,):
            ticket = await app.create()
            await until_it_hits(app, ticket)
            with psycopg.connect(database_url) as connection:
                connection.execute("UPDATE tickets SET title = 'by hand', version = 7")

            async def is_new() -> bool:
                return bool((await read(app, ticket)).json()["version"] == 7)

            await until(is_new)

    asyncio.run(act())


def test_missing_ticket_is_not_remembered_as_missing(database_url: str, valkey_url: str) -> None:
    async def act() -> None:
        async with caching(database_url, valkey_url) as (app,):
            other = await app.create()
            await until_it_hits(app, other)
            with psycopg.connect(database_url) as connection:
                connection.execute("CREATE TABLE apart AS SELECT * FROM tickets")
                connection.execute("DELETE FROM tickets")
            missing = str(uuid4())
            assert (await app.client.get(f"/tickets/{missing}")).status_code == 404
            with psycopg.connect(database_url) as connection:
                connection.execute("UPDATE apart SET id = %s", (missing,))
                connection.execute("INSERT INTO tickets SELECT * FROM apart")
            assert (await app.client.get(f"/tickets/{missing}")).status_code == 200

    asyncio.run(act())


async def change(app: Running, ticket: Mapping[str, Any], title: str) -> int:
    answer = await app.patch(ticket, title=title)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["version"])


async def press(apps: list[Running], tickets: list[dict[str, Any]], done: asyncio.Event) -> int:
    """Change a ticket by one worker, read it at once by every other; how many changes."""

    async def press_one(ticket: Mapping[str, Any], start: int) -> int:
        number = start
        while not done.is_set():
            number += 1
            version = await change(apps[number % len(apps)], ticket, f"т{number}")
            for app in apps[(number + 1) % len(apps) :] + apps:
                assert (await read(app, ticket)).json()["version"] >= version
        return number - start

    async def read_on(ticket: Mapping[str, Any], app: Running) -> None:
        last = 0
        while not done.is_set():
            version = (await read(app, ticket)).json()["version"]
            assert version >= last - 1, "at most the change that is not answered yet"
            last = max(last, version)

    pressing = [press_one(ticket, start) for start, ticket in enumerate(tickets)]
    reading = [read_on(ticket, app) for ticket in tickets for app in apps]
    return sum(found or 0 for found in await asyncio.gather(*pressing, *reading))


def nothing(server: Valkey) -> None:
    del server


@pytest.mark.parametrize("disturb", [nothing, flush, restart, kill_and_lose])
def test_answered_change_is_seen_by_all_while_redis_is_disturbed(
    database_url: str, tmp_path: Path, disturb: Callable[[Valkey], None]
) -> None:
    async def act(server: Valkey) -> None:
        async with caching(database_url, server.url(), server.url()) as apps:
            tickets = [await apps[0].create() for _ in range(3)]
            await until_it_hits(apps[0], tickets[0])
            await until_it_hits(apps[1], tickets[0])
            done = asyncio.Event()
            pressing = asyncio.create_task(press(apps, tickets, done))
            for _ in range(3):
                await asyncio.to_thread(disturb, server)
                hits = await count(apps[0], "hit")

                async def hits_again(before: int = hits) -> bool:
                    return pressing.done() or await count(apps[0], "hit") > before + 20

                await until(hits_again, 20)
                await asyncio.gather(*map(assert_ready, apps))
            done.set()
            assert await pressing > 10
            assert [app.events("request_failed") for app in apps] == [[], []]

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


@pytest.mark.parametrize("outage", ["slow", "refusing"])
def test_change_by_a_worker_without_redis_closes_the_gate_before_it_is_answered(
    database_url: str, tmp_path: Path, outage: str
) -> None:
    async def act(server: Valkey) -> None:
        async with (
            routed(server) as (url, route),
            caching(database_url, url, server.url(), TICKETD_REDIS_TIMEOUT="1s") as (slow, fast),
        ):
            ticket = await slow.create()
            await until_it_hits(fast, ticket)
            await until_it_hits(slow, ticket)
            generation, _ = gate(database_url)
            if outage == "slow":
                route.slow_down()
            else:
                route.lead_to(free_port())
            began = time.monotonic()
            assert await change(slow, ticket, "Иначе") == 2
            assert time.monotonic() - began >= LEASE_SECONDS
            assert (await read(fast, ticket)).json()["version"] == 2
            assert len(slow.events("cache_closed")) == 1
            await assert_ready(slow)
            assert gate(database_url)[0] > generation
            versions = [2]

            async def changes_at_once() -> bool:
                began = time.monotonic()
                versions.append(await change(fast, ticket, "Опять"))
                return time.monotonic() - began < LEASE_SECONDS

            # While it is closed, nobody has to wait.
            await until(changes_at_once)
            route.speed_up()
            if outage == "refusing":
                route.lead_to(server.port)
            await until_true(lambda: gate(database_url)[0] >= generation + 2)
            hit = await until_it_hits(fast, ticket)
            assert hit.json()["version"] == versions[-1] == len(versions) + 1

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def test_workers_that_see_two_servers_do_not_show_what_the_other_has_changed(
    database_url: str, tmp_path: Path
) -> None:
    """As after a failover that not everybody has noticed: the gate names one of the servers."""

    async def act(one: Valkey, two: Valkey) -> None:
        async with caching(database_url, one.url(), two.url()) as apps:
            await until_true(lambda: gate(database_url)[1])
            ticket = await apps[0].create()
            done = asyncio.Event()
            pressing = asyncio.create_task(press(apps, [ticket], done))
            for _ in range(2):
                closed, _ = gate(database_url)
                await until_true(partial(has_generation, database_url, closed + 2))
            done.set()
            assert await pressing > 2

    with valkey(tmp_path / "one") as one, valkey(tmp_path / "two") as two:
        asyncio.run(act(one, two))


def test_replica_is_no_cache(database_url: str, tmp_path: Path) -> None:
    async def act(primary: Valkey, replica: Valkey) -> None:
        with client(replica) as there:
            there.replicaof("127.0.0.1", str(primary.port))
        async with caching(database_url, replica.url()) as (app,):
            ticket = await app.create()

            async def is_up() -> bool:
                return bool(app.events("redis_up"))

            await until(is_up)
            await asyncio.gather(*(read(app, ticket) for _ in range(5)))
            assert await count(app, "bypass") == 5
            assert gate(database_url) == (0, None)
            assert await metric(app, "ticketd_redis_up") == 1

    with valkey(tmp_path / "one") as primary, valkey(tmp_path / "two") as replica:
        asyncio.run(act(primary, replica))
