"""Repeats answered from Redis, and Redis flushed, stopped, restarted, slow, full and failed over in
the middle: a key still makes one ticket."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from psycopg import sql

from deploy.local.valkey import Valkey
from tests.support.metrics import sample
from tests.ticketd.application import NEW, Running, running, until
from tests.ticketd.redis_servers import PASSWORD, client, routed, valkey

KEYS = 12


@asynccontextmanager
async def beside(database_url: str, redis_url: str, **more: str) -> AsyncIterator[Running]:
    """ticketd, connected to Redis."""
    # So long that a busy machine is not taken for a slow Redis.
    patience = {"TICKETD_REDIS_TIMEOUT": "5s"}
    environment = {"DATABASE_URL": database_url, "REDIS_URL": redis_url} | patience | more
    async with running(environment) as app:
        await until(lambda: is_up(app))
        await repeat_often(app)
        yield app
        assert app.events("request_failed") == []


async def is_up(app: Running) -> bool:
    return await metric(app, "ticketd_redis_up") == 1


async def is_down(app: Running) -> bool:
    return await metric(app, "ticketd_redis_up") == 0


async def has_failed(app: Running, times: float) -> bool:
    return await metric(app, "ticketd_redis_errors_total") >= times


async def metric(app: Running, name: str) -> float:
    return sample((await app.client.get("/metrics")).text, name)


async def assert_ready(app: Running) -> None:
    """Tickets do without Redis, so readiness does not speak of it."""
    answer = await app.client.get("/readyz")
    assert (answer.status_code, answer.json()["checks"]) == (200, {"database": "ok"})


async def create(app: Running, key: int = 1, **members: object) -> httpx.Response:
    headers = {"idempotency-key": f'"key {key}"'}
    answer = await app.client.post("/tickets", json=NEW | members, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer


def is_linked(replica: redis.Redis) -> bool:
    state: dict[str, object] = replica.info("replication")
    return state["master_link_status"] == "up"


async def until_true(condition: Callable[[], object]) -> None:
    async def holds() -> bool:
        return bool(condition())

    await until(holds)


async def repeat_often(app: Running) -> httpx.Response:
    """Until repeats are frequent enough to be looked up; the answer."""
    headers = {"idempotency-key": '"often"'}
    for _ in range(20):
        answer = await app.client.post("/tickets", json=NEW, headers=headers)
    return answer


def hide_keys(url: str, *, hidden: bool) -> None:
    """Without the table, only Redis can answer a repeat."""
    names = ("idempotency_key", "hidden") if hidden else ("hidden", "idempotency_key")
    with psycopg.connect(url) as connection:
        connection.execute(
            sql.SQL("ALTER TABLE {} RENAME TO {}").format(*map(sql.Identifier, names))
        )


def tickets(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM tickets").fetchone()
    return int(row[0]) if row else 0


def test_redis_is_not_asked_while_repeats_are_rare(database_url: str, tmp_path: Path) -> None:
    async def act(server: Valkey) -> None:
        async with beside(database_url, server.url()) as app:
            for number in range(80):
                await create(app, number)
            with client(server) as there:
                before = there.info("commandstats")["cmdstat_mget"]["calls"]
                names = there.dbsize()
                await create(app, 100)
                await create(app, 79)
                await until_true(lambda: there.dbsize() == names + 1)
                assert there.info("commandstats")["cmdstat_mget"]["calls"] == before

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def test_repeats_are_answered_from_redis_as_from_the_database(
    database_url: str, valkey_url: str
) -> None:
    async def act() -> None:
        async with beside(database_url, valkey_url) as app:
            first = await create(app)
            ticket = first.json()
            path = f"/tickets/{ticket['id']}/close"
            headers = {"idempotency-key": "close"}
            closed = await app.client.post(path, headers=headers)
            from_database = await replay_without_redis(database_url)
            counted = await metric(app, "ticketd_idempotent_replays_total")
            hide_keys(database_url, hidden=True)
            again = await create(app)
            assert (await app.client.post(path, headers=headers)).content == closed.content
            hide_keys(database_url, hidden=False)
            assert again.content == first.content == from_database.content
            for name in ("etag", "location", "idempotency-replayed", "content-type"):
                assert again.headers[name] == from_database.headers[name]
            assert await metric(app, "ticketd_idempotent_replays_total") == counted + 2

    asyncio.run(act())


async def replay_without_redis(database_url: str) -> httpx.Response:
    async with running({"DATABASE_URL": database_url}) as app:
        return await create(app)


def test_other_body_is_refused_by_the_database_whatever_redis_says(
    database_url: str, valkey_url: str
) -> None:
    async def act() -> None:
        async with beside(database_url, valkey_url) as app:
            first = await create(app)
            headers = {"idempotency-key": '"key 1"'}
            other = await app.client.post(
                "/tickets", json=NEW | {"title": "Иначе"}, headers=headers
            )
            assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
            assert (await create(app)).content == first.content

    asyncio.run(act())


def test_nonsense_in_redis_is_not_believed(database_url: str, tmp_path: Path) -> None:
    async def act(server: Valkey) -> None:
        async with beside(database_url, server.url()) as app:
            first = await create(app)
            with client(server) as there:
                await until_true(lambda: len(there.keys()) == 2)
                for name in there.scan_iter():
                    assert re.fullmatch(rb"servicedesk:[0-9a-f]{16}:replay:.{16}", name, re.DOTALL)
                    assert 0 < there.ttl(name) <= 900
                    there.set(name, b"short")
                assert (await create(app)).content == first.content
                for name in there.scan_iter():
                    there.delete(name)
                    there.lpush(name, b"a list")
                assert (await create(app)).content == first.content

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def flush(server: Valkey) -> None:
    server.flush()


def restart(server: Valkey) -> None:
    server.stop()
    server.start()
    server.wait_ready()


def kill_and_lose(server: Valkey) -> None:
    assert server.child is not None
    server.child.kill()
    shutil.rmtree(server.log.parent / "data")
    server.start()
    server.wait_ready()


@pytest.mark.parametrize("disturb", [flush, restart, kill_and_lose])
def test_keys_hold_while_redis_is_disturbed(
    database_url: str, tmp_path: Path, disturb: Callable[[Valkey], None]
) -> None:
    async def act(server: Valkey) -> None:
        async with beside(database_url, server.url()) as app:
            found: dict[int, set[bytes]] = {}
            answered: set[int] = set()
            done = asyncio.Event()

            async def keep_asking(start: int) -> None:
                number = start
                while not done.is_set():
                    found.setdefault(number, set()).add((await create(app, number)).content)
                    await assert_ready(app)
                    answered.add(number)
                    number = (number + 1) % KEYS

            asking = [asyncio.create_task(keep_asking(start)) for start in range(8)]
            for _ in range(3):
                await asyncio.to_thread(disturb, server)
                await until(lambda: is_up(app))
                answered.clear()
                await until_true(lambda: len(answered) == KEYS)
            done.set()
            await asyncio.gather(*asking)
            assert [len(contents) for contents in found.values()] == [1] * KEYS

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))
    assert tickets(database_url) == KEYS + 1


def test_redis_away_costs_nothing_but_a_look_into_the_database(
    database_url: str, tmp_path: Path
) -> None:
    async def act(server: Valkey) -> None:
        async with beside(database_url, server.url()) as app:
            first = await create(app)
            server.stop()
            for _ in range(5):
                assert (await create(app)).content == first.content
            await create(app, 2)
            await until(lambda: is_down(app))
            await assert_ready(app)
            # Once, however often it is looked for.
            failures = await metric(app, "ticketd_redis_errors_total")
            await until(lambda: has_failed(app, failures + 2), 30)
            assert len(app.events("redis_away")) == 1
            assert app.events("redis_away")[0]["reason"]
            server.start()
            server.wait_ready()
            await until(lambda: is_up(app))
            await assert_ready(app)
            assert (await create(app, 2)).headers["idempotency-replayed"] == "true"
            assert len(app.events("redis_up")) == 2

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))
    assert tickets(database_url) == 2 + 1


def test_slow_redis_is_waited_for_once_and_then_not_at_all(
    database_url: str, tmp_path: Path
) -> None:
    async def act(server: Valkey) -> None:
        async with (
            routed(server) as (url, route),
            beside(database_url, url, TICKETD_REDIS_TIMEOUT="1s") as app,
        ):
            first = await create(app)
            assert app.events("redis_away") == []
            route.slow_down()
            began = time.monotonic()
            assert (await create(app)).content == first.content
            assert [event["reason"] for event in app.events("redis_away")] == ["TimeoutError"]
            assert await metric(app, "ticketd_redis_up") == 0
            await assert_ready(app)
            for _ in range(10):
                assert (await create(app)).content == first.content
            assert time.monotonic() - began < 10, "the circuit is open"
            route.speed_up()
            await until(lambda: is_up(app))
            assert len(app.events("redis_away")) == 1
            assert len(app.events("redis_up")) == 2

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def test_key_holds_over_a_failover_to_a_replica(database_url: str, tmp_path: Path) -> None:
    """The address leads to the old primary, then to it as a replica, then to the new primary."""

    async def act(old: Valkey, new: Valkey) -> None:
        async with routed(old) as (url, route), beside(database_url, url) as app:
            with client(old) as first, client(new) as second:
                for each in (first, second):
                    each.config_set("masterauth", PASSWORD)
                    each.config_set("repl-diskless-sync-delay", "0")
                second.replicaof("127.0.0.1", str(old.port))
                await until_true(lambda: is_linked(second))
                made = await create(app)
                await until_true(lambda: len(second.keys()) == 2)
                second.replicaof("NO", "ONE")
                first.replicaof("127.0.0.1", str(new.port))
                # The old primary takes no writes now, and says so.
                await create(app, 2)
                await until_true(lambda: bool(app.events("redis_away")))
                assert app.events("redis_away")[0]["reason"] == "READONLY"
                await assert_ready(app)
                await until(lambda: is_up(app))
                route.lead_to(new.port)
                # This one meets the cut.
                await create(app, 2)
                await until_true(lambda: len(app.events("redis_up")) == 3)
                hide_keys(database_url, hidden=True)
                assert (await create(app)).content == made.content, "replicated, and asked for"
                hide_keys(database_url, hidden=False)
                await create(app, 3)
                await until_true(lambda: len(second.keys()) >= 3)

    with valkey(tmp_path / "old") as old, valkey(tmp_path / "new") as new:
        asyncio.run(act(old, new))
    assert tickets(database_url) == 3 + 1


def test_full_redis_goes_on_being_asked(database_url: str, tmp_path: Path) -> None:
    async def act(server: Valkey) -> None:
        async with beside(database_url, server.url()) as app:
            first = await create(app)
            with client(server) as there:
                there.config_set("maxmemory-policy", "noeviction")
                there.config_set("maxmemory", "1")
                for number in range(2, 6):
                    await create(app, number)
                await until_true(lambda: bool(app.events("redis_refused")))
                assert len(app.events("redis_refused")) == 1
                assert await metric(app, "ticketd_redis_errors_total") >= 1
                await assert_ready(app)
                hide_keys(database_url, hidden=True)
                assert (await create(app)).content == first.content
                hide_keys(database_url, hidden=False)
                there.config_set("maxmemory", "0")
                names = there.dbsize()
                await create(app, 6)
                await until_true(lambda: there.dbsize() > names)
                assert len(app.events("redis_refused")) == 1

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))
    assert tickets(database_url) == 6 + 1
