"""Connections: their limits, clients that are silent, gone or do not read, and the stop."""

import asyncio
import socket
from functools import partial

import psycopg

from tests.support.http_client import RawClient
from tests.ticketd.application import Running, somebody_waits_for_a_lock, until
from tests.ticketd.on_wire import GET, on_wire, post
from ticketd.http1 import Connection


def test_silent_connections_are_closed() -> None:
    async def act(app: Running, client: RawClient) -> None:
        url = str(app.client.base_url)
        async with RawClient(url) as idle, RawClient(url) as slow_head, RawClient(url) as slow_body:
            idle.send(GET)
            assert (await idle.answer()).status == 200
            slow_head.send(b"GET /healthz HT")
            slow_body.send(post()[:-1])
            assert await client.is_closed()
            assert await idle.is_closed()
            assert await slow_head.is_closed()
            answer = await slow_body.answer()
            assert (answer.status, answer.code) == (408, "request_timeout")

    limits = ("TICKETD_IDLE_TIMEOUT", "TICKETD_HEADER_TIMEOUT", "TICKETD_REQUEST_TIMEOUT")
    on_wire(act, dict.fromkeys(limits, "300ms"))


def test_pipeline_without_an_end_is_taken_in_portions(database_url: str) -> None:
    """10,000 requests in one read are not 10,000 requests in memory, and nobody waits for them."""

    async def act(app: Running, client: RawClient) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            client.send(b"GET /tickets HTTP/1.1\r\nHost: x\r\n\r\n" + GET * 30_000)
            await until(partial(_has_working, app, 1))
            await asyncio.sleep(0.1)
            (connection,) = app.server._connections
            assert 1 < len(connection._reader.waiting) < 1000
            await asyncio.to_thread(blocker.rollback)
        assert (await client.answer()).status == 200
        async with RawClient(str(app.client.base_url)) as other:
            other.send(GET)
            assert (await other.answer()).status == 200
        for _ in range(30_000):
            assert (await client.answer()).status == 200
        client.send(post())
        assert (await client.answer()).status == 201

    on_wire(act, {"DATABASE_URL": database_url, "TICKETD_ACCESS_LOG": "false"})


def test_last_answer_reaches_a_client_that_still_sends(database_url: str) -> None:
    """Closed with data unread, a connection is reset, and an answer may be lost with it."""

    async def act(app: Running, client: RawClient) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            client.send(b"GET /tickets HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
            await until(partial(_has_working, app, 1))
            client.send(GET * 10_000)
            await asyncio.sleep(0.1)
            stopping = asyncio.create_task(app.server.stop())
            await asyncio.sleep(0.1)
            await asyncio.to_thread(blocker.rollback)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.reader.read() == b"", "an end and no reset"
        client.writer.close()
        await app.client.aclose()
        await stopping

    on_wire(act, {"DATABASE_URL": database_url})


def test_client_that_does_not_read_is_cut_off_and_held_back() -> None:
    """Its requests wait in its own socket: the server answers no more than the client takes."""

    async def act(app: Running, client: RawClient) -> None:
        for _ in range(200):
            await app.create(description="ё" * 5000)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a Transport
        client.send(b"GET /tickets?limit=200 HTTP/1.1\r\nHost: x\r\n\r\n" * 500)

        async def is_gone() -> bool:
            return client.writer.transport.is_closing() or await _connections(app) == 1

        await until(is_gone)
        lists = 'ticketd_http_requests_total{method="GET",route="/tickets",status="200"} '
        metrics = (await app.client.get("/metrics")).text
        answered = float(metrics.partition(lists)[2].partition("\n")[0])
        assert 1 <= answered < 100

    on_wire(act, {"TICKETD_HEADER_TIMEOUT": "500ms", "TICKETD_ACCESS_LOG": "false"})


def test_client_that_does_not_read_does_not_hold_a_stop_for_long() -> None:
    async def act(app: Running, client: RawClient) -> None:
        for _ in range(200):
            await app.create(description="ё" * 5000)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a Transport
        client.send(b"GET /tickets?limit=200 HTTP/1.1\r\nHost: x\r\n\r\n" * 20)

        async def is_choked() -> bool:
            return any(connection._is_choked for connection in app.server._connections)

        await until(is_choked)
        await app.client.aclose()
        async with asyncio.timeout(8):
            await app.server.stop()

    on_wire(act, {"TICKETD_ACCESS_LOG": "false"})


async def _connections(app: Running) -> int:
    return len(app.server._connections)


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async def act(app: Running, client: RawClient) -> None:
        url = str(app.client.base_url)
        client.send(GET)
        assert (await client.answer()).status == 200
        async with RawClient(url) as second, RawClient(url) as third:
            second.send(GET)
            assert (await second.answer()).status == 200
            assert await third.is_closed()

        async def has_room() -> bool:
            return await _connections(app) == 1

        await until(has_room)
        async with RawClient(url) as later:
            later.send(GET)
            assert (await later.answer()).status == 200
            later.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            refused = b'ticketd_requests_refused_total{reason="too_many_connections"} 1.0'
            assert refused in (await later.answer()).body

    on_wire(act, {"TICKETD_CONNECTION_LIMIT": "2"})


def test_request_whose_client_has_gone_before_it_was_taken_is_dropped(database_url: str) -> None:
    async def act(app: Running, client: RawClient) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            client.send(post())
            await until(partial(somebody_waits_for_a_lock, database_url))
            async with RawClient(str(app.client.base_url)) as other:
                other.send(post())
                await until(partial(_has_working, app, 2))
            await until(partial(_has_working, app, 1))
            await asyncio.to_thread(blocker.rollback)
        assert (await client.answer()).status == 201
        metrics = (await app.client.get("/metrics")).text
        assert "ticketd_requests_abandoned_total 1.0" in metrics
        with psycopg.connect(database_url) as reader:
            assert reader.execute("SELECT count(*) FROM tickets").fetchone() == (1,)

    limits = {"TICKETD_LANES": "1", "TICKETD_BATCH_LIMIT": "1"}
    on_wire(act, {"DATABASE_URL": database_url} | limits)


async def _has_working(app: Running, count: int) -> bool:
    return sum(each.is_working for each in app.server._connections) == count


def test_stop_does_not_wait_for_a_connection_that_was_just_accepted(database_url: str) -> None:
    async def act(app: Running, client: RawClient) -> None:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
            client.send(post())
            await until(partial(somebody_waits_for_a_lock, database_url))
            stopping = asyncio.create_task(app.server.stop())
            await asyncio.sleep(0.05)
            ours, theirs = socket.socketpair()
            with ours:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: Connection(app.server), theirs)
                await asyncio.to_thread(blocker.rollback)
                assert (await client.answer()).status == 201
                await app.client.aclose()
                await asyncio.wait_for(stopping, 5.0)

    on_wire(act, {"DATABASE_URL": database_url})


def test_stop_hears_out_clients_that_are_in_the_midst_of_their_work() -> None:
    """One that sends its next request, and one that connects, before they can know of the stop."""

    async def act(app: Running, client: RawClient) -> None:
        client.send(GET)
        assert (await client.answer()).status == 200
        stopping = asyncio.create_task(app.server.stop())
        await asyncio.sleep(0)
        async with RawClient(str(app.client.base_url)) as newcomer:
            for each in (client, newcomer):
                each.send(GET)
                answer = await each.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await each.is_closed()
        await app.client.aclose()
        await stopping

    on_wire(act, {})


def test_stop_closes_idle_connections_and_lets_the_last_answer_out(database_url: str) -> None:
    async def act(app: Running, client: RawClient) -> None:
        async with RawClient(str(app.client.base_url)) as idle:
            idle.send(GET)
            assert (await idle.answer()).status == 200
            with psycopg.connect(database_url) as blocker:
                blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
                client.send(post())
                await until(partial(somebody_waits_for_a_lock, database_url))
                stopping = asyncio.create_task(app.server.stop())
                assert await idle.is_closed()
                await asyncio.to_thread(blocker.rollback)
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (201, "close")
            await app.client.aclose()
            await stopping

    on_wire(act, {"DATABASE_URL": database_url})
