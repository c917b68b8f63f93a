"""Quotas: so many requests a caller, over all workers while Redis is there, and in each without."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis

from deploy.local.valkey import Valkey
from tests.ticketd.application import NEW, Running, chunk, http_scope, in_tasks, running, until
from tests.ticketd.application import Exchange as Messages
from tests.ticketd.redis_servers import valkey
from tests.ticketd.test_replays import assert_ready, until_true
from ticketd.config import Config
from ticketd.messages import client_of
from ticketd.quotas import TAKE, LocalBuckets, Quota

JSON = "application/json"
LEFT = re.compile(r'"default";r=(\d+);t=(\d+)')


# So long that a busy machine is not taken for a slow Redis.
PATIENCE = {"TICKETD_REDIS_TIMEOUT": "5s", "TICKETD_REQUEST_TIMEOUT": "30s"}


def run(environment: dict[str, str], act: Callable[[Running], Awaitable[None]]) -> None:
    async def act_on() -> None:
        async with running(environment) as app:
            await act(app)

    asyncio.run(act_on())


def left(answer: httpx.Response) -> tuple[int, int]:
    match = LEFT.fullmatch(answer.headers["ratelimit"])
    assert match is not None
    return int(match[1]), int(match[2])


async def statuses(app: Running, count: int) -> list[int]:
    answers = await asyncio.gather(*(app.client.get("/tickets") for _ in range(count)))
    return sorted(answer.status_code for answer in answers)


def test_answers_say_where_the_caller_stands_and_the_one_too_many_is_refused() -> None:
    async def act(app: Running) -> None:
        for number in range(3):
            answer = await app.client.get("/tickets")
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"default";q=3;w=3600'
            remaining, seconds = left(answer)
            assert remaining == 2 - number
            assert 0 < seconds <= 3600
        answer = await app.client.get("/tickets")
        assert answer.status_code == 429
        assert answer.json()["code"] == "quota_exceeded"
        assert left(answer)[0] == 0
        assert 1 <= int(answer.headers["retry-after"]) <= 1200
        assert (await app.client.get("/healthz")).status_code == 200
        assert "ratelimit" not in (await app.client.get("/healthz")).headers

    run({"TICKETD_QUOTA": "3/1h"}, act)


def test_answers_to_requests_that_failed_say_it_too() -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        path = f"/tickets/{ticket['id']}"
        answers = [
            await app.client.get(path, headers={"if-none-match": '"1"'}),
            await app.client.get("/tickets?limit=0"),
            await app.client.get(path.replace("-7", "-8")),
            await app.patch(ticket, if_match='"9"', title="Иначе"),
            await app.client.patch(path, json={"title": "Иначе"}),
        ]
        assert [answer.status_code for answer in answers] == [304, 400, 404, 412, 428]
        assert [left(answer)[0] for answer in answers] == [8, 7, 6, 5, 4]
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {
            '"default";q=10;w=3600'
        }

    run({"TICKETD_QUOTA": "10/1h"}, act)


def test_refusals_of_what_took_a_token_say_so_too() -> None:
    async def act(app: Running) -> None:
        ticket, client = await app.create(), app.client
        path, key = f"/tickets/{ticket['id']}", {"idempotency-key": "k"}
        assert (await client.post("/tickets", json=NEW, headers=key)).status_code == 201
        answers = [
            await client.post("/tickets", content="{", headers={"content-type": JSON}),
            await client.get("/tickets?limit=0"),
            await client.get(f"/tickets/{uuid4()}"),
            await app.patch(ticket, status="resolved"),
            await app.patch(ticket, if_match='"7"', title="t"),
            await client.post("/tickets", content="{}", headers={"content-type": "text/plain"}),
            await client.post("/tickets", json=NEW | {"title": "t"}, headers=key),
            await client.patch(path, json={"title": "t"}),
        ]
        found = [(answer.status_code, left(answer)[0]) for answer in answers]
        assert found == [
            (400, 97), (400, 96), (404, 95), (409, 94), (412, 93), (415, 92), (422, 91), (428, 90),
        ]  # fmt: skip
        assert len(answers[2].headers.get_list("ratelimit-policy")) == 1
        # These took none.
        for answer in (await client.get("/nothing"), await client.put("/tickets")):
            assert "ratelimit" not in answer.headers

    run({"TICKETD_QUOTA": "100/1h", "TICKETD_REQUIRE_IF_MATCH": "true"}, act)


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        ("ALTER TABLE tickets RENAME COLUMN title TO topic", 500),
        ("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE", 503),
    ],
)
def test_failures_of_what_took_a_token_say_so_too(
    database_url: str, spoil: str, status: int
) -> None:
    async def act(app: Running) -> None:
        # The other servers end a request that takes too long in a way of their own.
        async with in_tasks(settings) as other:
            with psycopg.connect(database_url) as connection:
                connection.execute(spoil.encode())
                if status == 500:
                    connection.commit()
                answer = await app.client.get("/tickets")
                exchange = Messages(chunk(b""))
                await other(http_scope("GET", "/tickets"), exchange.receive, exchange.send)
            assert (answer.status_code, exchange.status) == (status, status)
            assert left(answer)[0] == 99
            assert '"default";r=99;' in exchange.headers["ratelimit"]

    settings = {"DATABASE_URL": database_url, "TICKETD_QUOTA": "100/1h"}
    settings |= {"TICKETD_REQUEST_TIMEOUT": "2s"}
    run(settings, act)


def test_without_a_quota_nothing_is_said_of_one() -> None:
    async def act(app: Running) -> None:
        assert "ratelimit" not in (await app.client.get("/tickets")).headers

    run({}, act)


def test_bucket_fills_at_its_rate_and_never_beyond_its_count() -> None:
    now = 100.0
    buckets = LocalBuckets(Quota(4, 2.0), lambda: now)
    assert [buckets.take(b"a").is_allowed for _ in range(5)] == [True] * 4 + [False]
    assert buckets.take(b"b").is_allowed
    now += 0.5
    assert [buckets.take(b"a").is_allowed for _ in range(2)] == [True, False]
    now += 1000
    assert [buckets.take(b"a").is_allowed for _ in range(5)] == [True] * 4 + [False]


def test_each_token_has_a_quota_of_its_own(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    lines = [f"{n} {hashlib.sha256(n.encode()).hexdigest()} tickets:read\n" for n in ("a", "b")]
    tokens.write_text("".join(lines))

    async def act(app: Running) -> None:
        for name in ("a", "b"):
            app.client.headers["authorization"] = f"Bearer {name}"
            assert await statuses(app, 3) == [200, 200, 429]
        app.client.headers["authorization"] = "Bearer c"
        assert await statuses(app, 3) == [401] * 3

    run({"TICKETD_QUOTA": "2/1h", "TICKETD_TOKENS_FILE": str(tokens)}, act)


def test_workers_share_a_quota_in_redis(database_url: str, valkey_url: str) -> None:
    async def act() -> None:
        environment = {"DATABASE_URL": database_url, "REDIS_URL": valkey_url}
        environment |= {"TICKETD_QUOTA": "20/1h"} | PATIENCE
        async with running(environment) as one, running(environment) as two:
            for app in (one, two):
                await until_true(partial(app.events, "redis_up"))
            found = await asyncio.gather(statuses(one, 18), statuses(two, 18))
            assert sorted(found[0] + found[1]) == [200] * 20 + [429] * 16
            answers = await asyncio.gather(one.client.get("/tickets"), two.client.get("/tickets"))
            assert [left(answer)[0] for answer in answers] == [0, 0]

    asyncio.run(act())


def test_bucket_in_redis_fills_again_and_tells_what_is_left(
    database_url: str, valkey_url: str
) -> None:
    async def act() -> None:
        environment = {"DATABASE_URL": database_url, "REDIS_URL": valkey_url} | PATIENCE
        async with running(environment | {"TICKETD_QUOTA": "10/1h"}) as app:
            await until_true(lambda: app.events("redis_up"))
            answers = await asyncio.gather(*(app.client.get("/tickets") for _ in range(5)))
            assert sorted(left(answer)[0] for answer in answers) == [5, 6, 7, 8, 9]
        async with running(environment | {"TICKETD_QUOTA": "10/1s"}) as app:
            await until_true(lambda: app.events("redis_up"))
            await until_all_is_there(app)

    asyncio.run(act())


async def until_all_is_there(app: Running) -> None:
    async def is_full() -> bool:
        await asyncio.sleep(0.3)
        return left(await app.client.get("/tickets"))[0] == 9

    await until(is_full)


def test_slow_bucket_fills_as_well_for_who_keeps_asking(valkey_url: str) -> None:
    server = redis.Redis.from_url(valkey_url)
    take, rate = server.register_script(TAKE.text), 10 / 86_400

    def asked(count: int) -> float:
        return float(take(keys=["slow"], args=[10, rate, count])[1])

    def asked_at() -> float:
        bucket = server.get("slow")
        assert bucket is not None
        return float(bucket.split()[1])

    asked(10)
    started = asked_at()
    for _ in range(2_000):
        left_over = asked(1)
    seconds = asked_at() - started
    assert left_over == pytest.approx(seconds * rate, rel=0.1, abs=2e-6)


def test_worker_counts_by_itself_while_redis_is_away(database_url: str, tmp_path: Path) -> None:
    async def act(server: Valkey) -> None:
        environment = {"DATABASE_URL": database_url, "REDIS_URL": server.url()} | PATIENCE
        async with running(environment | {"TICKETD_QUOTA": "5/1h"}) as app:
            await until_true(lambda: app.events("redis_up"))
            assert await statuses(app, 6) == [200] * 5 + [429]
            server.stop()
            assert await statuses(app, 7) == [200] * 5 + [429] * 2
            await assert_ready(app)
            server.start()
            server.wait_ready()
            await until_true(lambda: len(app.events("redis_up")) == 2)
            assert await statuses(app, 6) == [200] * 5 + [429]

    with valkey(tmp_path / "valkey") as server:
        asyncio.run(act(server))


def test_quota_holds_under_other_servers_too() -> None:
    async def act() -> None:
        async with in_tasks({"TICKETD_QUOTA": "2/1h"}) as app:
            found = []
            for host in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
                exchange = Messages(chunk(b""))
                scope = http_scope("GET", "/tickets") | {"client": (host, 40_000)}
                await app(scope, exchange.receive, exchange.send)
                found.append(exchange.status)
            assert found == [200, 200, 429, 200]

    asyncio.run(act())


@pytest.mark.parametrize(
    ("address", "client"),
    [
        (("192.0.2.1", 5), b"192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), b"20010db800000000"),
        (("2001:db8::ffff:1", 5, 0, 0), b"20010db800000000"),
        (("fe80::1%eth0", 5, 0, 2), b"fe80000000000000"),
        (None, b""),
        ("", b""),
    ],
)
def test_client_is_its_address_or_its_network(
    address: tuple[object, ...] | None, client: bytes
) -> None:
    assert client_of(address) == client


@pytest.mark.parametrize(
    ("text", "quota"),
    [("100/s", Quota(100, 1)), ("1000/1m", Quota(1000, 60)), ("10000/24h", Quota(10_000, 86_400))],
)
def test_quota_is_read_as_it_is_written(text: str, quota: Quota) -> None:
    assert Config.from_environment({"TICKETD_QUOTA": text}).quota == quota
