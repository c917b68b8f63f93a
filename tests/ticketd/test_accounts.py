"""What the operators see: access lines, metrics, and the signal to relayd."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from servicedesk.event import rfc3339
from tests.ticketd.application import NEW, Exchange, Running, http_scope, running
from tests.ticketd.samples import a_ticket
from ticketd.access_log import FLUSH_LINES, AccessLog, Entry
from ticketd.metrics import exposition, gauges
from ticketd.representation import timestamp

TRACE = "0af7651916cd43dd8448eb211c80319c"


def on_app(environment: dict[str, str], act: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(environment) as app:
            await act(app)

    asyncio.run(run())


async def logged(app: Running, count: int) -> None:
    async with asyncio.timeout(5):
        while len(app.events("request")) < count:
            await asyncio.sleep(0.01)


def test_every_request_is_one_line_within_a_moment() -> None:
    async def act(app: Running) -> None:
        headers = {"x-request-id": "r-7", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answer = await app.client.post("/tickets", json=NEW, headers=headers)
        await app.client.get("/nowhere?secret=1")
        await logged(app, 2)
        created, lost = app.events("request")
        assert created.pop("duration_ms") > 0
        assert created.pop("time").endswith("Z")
        assert created == {
            "level": "info",
            "daemon": "ticketd",
            "event": "request",
            "method": "POST",
            "route": "/tickets",
            "status": 201,
            "request_id": "r-7",
            "trace_id": TRACE,
            "caller": "anonymous",
            "bytes": len(answer.content),
        }
        assert (lost["route"], lost["status"]) == ("unmatched", 404)
        assert "secret" not in app.stream.getvalue()

    on_app({}, act)


def test_lines_are_not_lost_at_the_end() -> None:
    async def act() -> Running:
        async with running() as app:
            await app.client.get("/healthz")
        return app

    assert len(asyncio.run(act()).events("request")) == 1


def test_access_log_can_be_left_out() -> None:
    async def act() -> Running:
        async with running({"TICKETD_ACCESS_LOG": "false"}) as app:
            await app.client.get("/healthz")
        return app

    assert asyncio.run(act()).events("request") == []


def test_a_full_collection_is_written_at_once() -> None:
    written: list[str] = []
    entry: Entry = (time.time(), "GET", "/", 200, 0.001, "r", f"00-{TRACE}-b7-00", "me", 2)

    async def act() -> None:
        log = AccessLog(written.append)
        for _ in range(FLUSH_LINES):
            log.add(entry)
        assert len(written) == 1
        assert len(written[0].splitlines()) == FLUSH_LINES

    asyncio.run(act())


def test_requests_are_counted_by_route_and_status() -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        for path in (f"/tickets/{ticket['id']}", "/tickets/42", "/a", "/b"):
            await app.client.get(path)
        await app.client.request("BREW", "/coffee")
        metrics = (await app.client.get("/metrics")).text
        for line in (
            'ticketd_http_requests_total{method="POST",route="/tickets",status="201"} 1.0',
            'ticketd_http_requests_total{method="GET",route="/tickets/{id}",status="200"} 1.0',
            'ticketd_http_requests_total{method="GET",route="/tickets/{id}",status="400"} 1.0',
            'ticketd_http_requests_total{method="GET",route="unmatched",status="404"} 2.0',
            'ticketd_http_requests_total{method="other",route="unmatched",status="404"} 1.0',
            'ticketd_http_request_duration_seconds_count{method="POST",route="/tickets"} 1.0',
            "ticketd_database_state 1.0",
        ):
            assert line in metrics

    on_app({}, act)


def test_worker_that_has_just_created_its_files_disturbs_nobody(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "gauge_livemin_1.db").touch()
    assert exposition(tmp_path) == b""
    assert gauges(tmp_path) == {}


def test_commits_signal_relayd_and_reads_do_not(database_url: str) -> None:
    async def act(app: Running) -> None:
        listener = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        async with listener:
            await listener.execute("LISTEN outbox")
            ticket = await app.create()
            async for found in listener.notifies(timeout=5, stop_after=1):
                assert found.channel == "outbox"
                break
            else:
                raise AssertionError("no signal after a commit")
            await app.client.get(f"/tickets/{ticket['id']}")
            assert [found async for found in listener.notifies(timeout=0.3)] == []

    on_app({"DATABASE_URL": database_url}, act)


def test_signals_are_coalesced_and_outlive_a_lost_connection(database_url: str) -> None:
    async def act(app: Running) -> None:
        listener = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        async with listener:
            await listener.execute("LISTEN outbox")
            creating = [asyncio.create_task(app.create()) for _ in range(50)]
            for task in creating:
                await task
            received = [found async for found in listener.notifies(timeout=10, stop_after=1)]
            received += [found async for found in listener.notifies(timeout=0.5)]
            assert 1 <= len(received) < 50
            await listener.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'ticketd signal' AND datname = current_database()"
            )
            async with asyncio.timeout(10):
                while not app.events("outbox_signal_failed"):
                    await app.create()
                    await asyncio.sleep(0.01)
                while [found async for found in listener.notifies(timeout=0.1)]:
                    pass  # sent before it failed
                while not [found async for found in listener.notifies(timeout=0.1)]:
                    await app.create()

    on_app({"DATABASE_URL": database_url}, act)


def test_times_are_written_as_everywhere_else() -> None:
    moment = a_ticket().created_at
    assert timestamp(moment) == rfc3339(moment)
    assert timestamp(moment.replace(microsecond=0)) == rfc3339(moment.replace(microsecond=0))


def test_repeated_header_lines_are_one_list() -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        scope = http_scope("GET", f"/tickets/{ticket['id']}")
        scope["headers"] = [(b"if-none-match", b'"7"'), (b"if-none-match", b'"1"')]
        exchange = Exchange()
        await app.app(scope, exchange.receive, exchange.send)
        assert exchange.status == 304

    on_app({}, act)
