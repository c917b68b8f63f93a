"""What protects the server: sizes, times, a bounded queue, and a database that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import httpx
import orjson
import psycopg
import pytest

from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations
from tests.support.processes import free_port
from tests.ticketd.application import (
    NEW,
    Exchange,
    Running,
    chunk,
    http_scope,
    running,
    somebody_waits_for_a_lock,
    until,
)
from tests.ticketd.lossy import NEVER_GIVES_UP, silenced
from ticketd.asgi import Message
from ticketd.messages import BODY_LIMIT_BYTES

Environment = dict[str, str]
Act = Callable[[Running], Awaitable[None]]
POST = http_scope("POST", "/tickets", content_type="application/json")


def on_app(environment: Environment, act: Act) -> None:
    async def run() -> None:
        async with running(environment) as app:
            await act(app)

    asyncio.run(run())


def problem(exchange: Exchange) -> tuple[int, str]:
    return exchange.status, orjson.loads(exchange.body)["code"]


async def is_answered(app: Running, path: str) -> bool:
    return (await app.client.get(path)).status_code == 200


async def until_created(app: Running) -> str:
    """A ticket's path: the first connection may take longer than a request has time for."""
    created: list[httpx.Response] = []

    async def is_created() -> bool:
        created.append(await app.client.post("/tickets", json=NEW))
        return created[-1].status_code == 201

    await until(is_created)
    return created[-1].headers["location"]


def test_body_in_many_chunks_is_read_whole() -> None:
    async def act(app: Running) -> None:
        body = orjson.dumps(NEW)
        pieces = [chunk(body[at : at + 1], more=True) for at in range(len(body))]
        exchange = Exchange(*pieces, chunk(b""))
        await app.app(POST, exchange.receive, exchange.send)
        assert exchange.status == 201

    on_app({}, act)


def test_announced_body_is_read_with_one_message() -> None:
    async def act(app: Running) -> None:
        body = orjson.dumps(NEW)
        # Granian says more_body also with the last piece.
        exchange = Exchange(chunk(body, more=True), chunk(b""))
        scope = http_scope(
            "POST", "/tickets", content_type="application/json", content_length=str(len(body))
        )
        await app.app(scope, exchange.receive, exchange.send)
        assert (exchange.status, exchange.received) == (201, 1)

    on_app({}, act)


def test_too_large_a_body_is_refused_before_it_is_read() -> None:
    async def act(app: Running) -> None:
        announced = http_scope(
            "POST", "/tickets", content_type="application/json", content_length="10000000"
        )
        exchange = Exchange()
        await app.app(announced, exchange.receive, exchange.send)
        assert problem(exchange) == (413, "body_too_large")
        assert exchange.received == 0

        piece = chunk(b" " * 100_000, more=True)
        exchange = Exchange(*[piece] * 100)
        await app.app(POST, exchange.receive, exchange.send)
        assert problem(exchange) == (413, "body_too_large")
        assert exchange.received == BODY_LIMIT_BYTES // 100_000 + 1

    on_app({}, act)


def test_body_of_the_largest_size_is_read() -> None:
    async def act(app: Running) -> None:
        body = orjson.dumps(NEW)
        body += b" " * (BODY_LIMIT_BYTES - len(body))
        headers = {"content-type": "application/json"}
        answer = await app.client.post("/tickets", content=body, headers=headers)
        assert answer.status_code == 201

    on_app({}, act)


def test_body_that_ends_early_is_malformed() -> None:
    async def act(app: Running) -> None:
        exchange = Exchange(chunk(b'{"title', more=True), {"type": "http.disconnect"})
        await app.app(POST, exchange.receive, exchange.send)
        assert problem(exchange) == (400, "malformed_json")

    on_app({}, act)


def test_body_that_trickles_in_is_given_up() -> None:
    async def act(app: Running) -> None:
        exchange = Exchange()

        async def trickle() -> Message:
            await asyncio.sleep(0.05)
            return chunk(b" ", more=True)

        async with asyncio.timeout(5):
            await app.app(POST, trickle, exchange.send)
        assert problem(exchange) == (408, "request_timeout")
        metrics = (await app.client.get("/metrics")).text
        assert 'ticketd_requests_refused_total{reason="request_timeout"} 1.0' in metrics

    on_app({"TICKETD_REQUEST_TIMEOUT": "200ms"}, act)


def test_long_headers_are_a_problem() -> None:
    async def act(app: Running) -> None:
        answer = await app.client.get("/tickets", headers={"cookie": "x" * 16_384})
        assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")

    on_app({}, act)


def test_statement_that_takes_too_long_is_given_up(database_url: str) -> None:
    async def act(app: Running) -> None:
        path = await until_created(app)
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            answer = await app.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 4
        await until(partial(is_answered, app, path))

    on_app({"DATABASE_URL": database_url, "TICKETD_REQUEST_TIMEOUT": "300ms"}, act)


def test_more_than_may_wait_is_refused_at_once_and_the_rest_is_served(database_url: str) -> None:
    async def act(app: Running) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            requests = [asyncio.create_task(app.client.post("/tickets", json=NEW))]
            await until(partial(somebody_waits_for_a_lock, database_url))
            requests += [
                asyncio.create_task(app.client.post("/tickets", json=NEW)) for _ in range(20)
            ]

            async def refused() -> bool:
                return sum(request.done() for request in requests) == 17

            await until(refused)
            await asyncio.to_thread(blocker.rollback)
        answers = [await request for request in requests]
        # One is under way and three may wait.
        assert sorted(answer.status_code for answer in answers) == [201] * 4 + [503] * 17
        turned_away = [answer for answer in answers if answer.status_code == 503]
        assert {answer.json()["code"] for answer in turned_away} == {"overloaded"}
        assert len({answer.headers["retry-after"] for answer in turned_away}) > 1

    limits = {"TICKETD_LANES": "1", "TICKETD_BATCH_LIMIT": "1", "TICKETD_QUEUE_LIMIT": "3"}
    on_app({"DATABASE_URL": database_url} | limits, act)


def test_full_pool_does_not_look_like_an_absent_database(database_url: str) -> None:
    async def act(app: Running) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            waiting = asyncio.create_task(app.client.get("/tickets"))
            await app.app.pipeline._readiness.refresh()
            assert (await app.client.get("/readyz")).status_code == 200
        assert (await waiting).status_code == 200

    on_app({"DATABASE_URL": database_url, "TICKETD_LIST_LANES": "1"}, act)


def test_absent_database_is_503_and_not_ready() -> None:
    async def act(app: Running) -> None:
        ready = await app.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"].startswith("unreachable")
        assert (await app.client.get("/healthz")).status_code == 200
        for request in (app.client.get("/tickets"), app.client.post("/tickets", json=NEW)):
            answer = await request
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert 1 <= int(answer.headers["retry-after"]) <= 4

    on_app({"DATABASE_URL": f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x"}, act)


@pytest.mark.parametrize("cached", [False, True])
def test_unmigrated_database_becomes_ready_by_itself(
    empty_database_url: str, valkey_url: str, *, cached: bool
) -> None:
    async def act(app: Running) -> None:
        ready = await app.client.get("/readyz")
        assert ready.status_code == 503
        assert "servicedesk.migrate" in ready.json()["checks"]["database"]
        assert (await app.client.post("/tickets", json=NEW)).status_code == 503
        await asyncio.to_thread(
            migrate, empty_database_url, read_migrations(MIGRATIONS), report=lambda line: None
        )

        async def is_ready() -> bool:
            return (await app.client.get("/readyz")).status_code == 200

        await until(is_ready)
        await app.create()
        told = [line["event"] for line in app.lines if line["event"].startswith("database_")]
        # A look in the midst of the migration finds another version, which is told too.
        assert set(told[:-1]) == {"database_not_ready"}
        assert told[-1] == "database_ready"
        assert app.events("background_task_failed") == []
        if cached:
            await until_opened(app)
            assert len(app.events("cache_gate_unseen")) <= 1

    settings = {"REDIS_URL": valkey_url, "TICKETD_CACHE": "true"} if cached else {}
    on_app({"DATABASE_URL": empty_database_url} | settings, act)


async def until_opened(app: Running) -> None:
    async def is_opened() -> bool:
        return bool(app.events("cache_opened"))

    await until(is_opened)


def test_killed_connections_are_no_error_for_anyone(database_url: str) -> None:
    async def act(app: Running) -> None:
        done = asyncio.Event()
        answers: list[httpx.Response] = []

        async def keep_creating() -> None:
            while not done.is_set():
                answers.append(await app.client.post("/tickets", json=NEW))
                assert answers[-1].status_code == 201, answers[-1].text

        creators = [asyncio.create_task(keep_creating()) for _ in range(8)]
        connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            for _ in range(20):
                answered = len(answers)
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                # By progress and not by time: a machine under load needs long to connect.
                while len(answers) < answered + 16 and not any(task.done() for task in creators):
                    await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*creators)
        created = sorted(answer.json()["id"] for answer in answers)
        with psycopg.connect(database_url) as reader:
            tickets = reader.execute("SELECT id::text FROM tickets ORDER BY id").fetchall()
            events = reader.execute(
                "SELECT aggregate_id::text FROM outbox ORDER BY aggregate_id"
            ).fetchall()
        assert [row[0] for row in tickets] == created
        assert events == tickets

    settings = {"DATABASE_URL": database_url, "TICKETD_ACCESS_LOG": "false"}
    on_app(settings | NEVER_GIVES_UP, act)


def test_defect_is_a_500_without_its_traceback(database_url: str) -> None:
    async def act(app: Running) -> None:
        with psycopg.connect(database_url) as connection:
            connection.execute("ALTER TABLE tickets RENAME COLUMN title TO topic")
        answer = await app.client.get("/tickets", headers={"x-request-id": "look-me-up"})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
        assert "title" not in answer.json()["detail"]
        failure = app.events("request_failed")[0]
        assert failure["request_id"] == "look-me-up"
        assert "UndefinedColumn" in failure["traceback"]

    on_app({"DATABASE_URL": database_url}, act)


def test_database_that_has_gone_silent_is_given_up_too(database_url: str) -> None:
    async def act(url: str, silence: asyncio.Event) -> None:
        async with running({"DATABASE_URL": url, "TICKETD_REQUEST_TIMEOUT": "300ms"}) as app:
            path = await until_created(app)
            silence.set()
            answer = await asyncio.wait_for(app.client.get(path), 20)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")

    async def run() -> None:
        async with silenced(database_url) as (url, silence):
            await act(url, silence)

    asyncio.run(run())


def test_requests_given_up_leave_no_gap_in_the_pool(database_url: str) -> None:
    async def act(app: Running) -> None:
        for _ in range(3):
            with psycopg.connect(database_url) as blocker:
                blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
                requests = [asyncio.create_task(app.client.get("/tickets")) for _ in range(6)]
                answers = [await request for request in requests]
            assert {answer.status_code for answer in answers} == {503}
        await asyncio.gather(*(until(partial(is_answered, app, "/tickets")) for _ in range(6)))

    limits = {"TICKETD_LIST_LANES": "2", "TICKETD_REQUEST_TIMEOUT": "200ms"}
    on_app({"DATABASE_URL": database_url} | limits, act)
