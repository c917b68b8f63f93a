"""The application under tasks, as other ASGI servers run it: time limits and cancellation."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import orjson
import psycopg
import pytest

from tests.ticketd.application import (
    NEW,
    Exchange,
    chunk,
    http_scope,
    in_tasks,
    somebody_waits_for_a_lock,
    until,
)
from ticketd.asgi import Application

Act = Callable[[Application], Awaitable[None]]
POST = http_scope("POST", "/tickets", content_type="application/json")
LIST = http_scope("GET", "/tickets")
METRICS = http_scope("GET", "/metrics")


def on_app(environment: dict[str, str], act: Act) -> None:
    async def run() -> None:
        async with in_tasks(environment) as app:
            await act(app)

    asyncio.run(run())


async def call(app: Application, scope: dict[str, object], body: bytes = b"") -> Exchange:
    exchange = Exchange(chunk(body))
    await app(scope, exchange.receive, exchange.send)
    return exchange


def test_many_requests_side_by_side_are_served(database_url: str) -> None:
    async def act(app: Application) -> None:
        body = orjson.dumps(NEW)
        created = await asyncio.gather(*(call(app, POST, body) for _ in range(300)))
        assert {exchange.status for exchange in created} == {201}
        paths = [exchange.headers["location"] for exchange in created]
        read = await asyncio.gather(*(call(app, http_scope("GET", path)) for path in paths))
        assert [exchange.body for exchange in read] == [exchange.body for exchange in created]

    on_app({"DATABASE_URL": database_url, "TICKETD_QUEUE_LIMIT": "300"}, act)


def test_request_that_takes_too_long_is_answered(database_url: str) -> None:
    async def act(app: Application) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            exchange = await call(app, LIST)
        assert exchange.status == 503

        async def is_answered() -> bool:
            return (await call(app, LIST)).status == 200

        # The first connection may take longer than a request has time for.
        await until(is_answered)

    on_app({"DATABASE_URL": database_url, "TICKETD_REQUEST_TIMEOUT": "200ms"}, act)


def test_cancelled_request_is_not_answered(database_url: str) -> None:
    async def act(app: Application) -> None:
        exchange = Exchange()
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            request = asyncio.ensure_future(app(LIST, exchange.receive, exchange.send))
            await until(partial(somebody_waits_for_a_lock, database_url))
            working = b"ticketd_http_requests_in_flight "
            metrics = (await call(app, METRICS)).body
            # The scrape itself is the other one.
            assert working + b"2.0" in metrics
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        assert exchange.sent == []
        assert working + b"1.0" in (await call(app, METRICS)).body

    on_app({"DATABASE_URL": database_url}, act)
