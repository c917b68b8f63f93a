"""What answers at the address of Redis, and is none, or not any more."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StartDaemon
from tests.support.processes import wait_until
from tests.ticketd.application import NEW, running
from tests.ticketd.test_replays import until_true

IS_PRIMARY = b"$11\r\nrole:master\r\n"
ASKED_IN_GREETING = (b"SCRIPT", b"CLIENT", b"INFO")


@contextlib.asynccontextmanager
async def answering(garbage: bytes) -> AsyncIterator[str]:
    """The URL of a server that greets as Redis does, and has one answer to everything else."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # ticketd may hang up with something unread.
        with contextlib.suppress(ConnectionError):
            while command := await reader.read(65_536):
                if b"INFO" in command:
                    writer.write(IS_PRIMARY)
                else:
                    greeting = any(word in command for word in ASKED_IN_GREETING)
                    writer.write(b"+OK\r\n" if greeting else garbage)
        writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b":5\r\n", id="a number for a list"),
        pytest.param(b"*1\r\n:1\r\n", id="a number for a text"),
        pytest.param(b"*0\r\n", id="too few"),
        pytest.param(b"*-1\r\n", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
    ],
)
def test_garbled_answers_of_redis_fail_no_request_and_end_no_worker(
    database_url: str, garbage: bytes
) -> None:
    async def act() -> None:
        async with answering(garbage) as url:
            settings = {"TICKETD_QUOTA": "1000/s", "TICKETD_CACHE": "true"}
            settings |= {"DATABASE_URL": database_url, "REDIS_URL": url}
            async with running(settings) as app:
                await until_true(lambda: app.events("redis_up"))
                for _ in range(20):
                    headers = {"idempotency-key": '"one"'}
                    made = await app.client.post("/tickets", json=NEW, headers=headers)
                    assert made.status_code == 201
                    read = await app.client.get(f"/tickets/{made.json()['id']}")
                    assert read.status_code == 200
                await until_true(lambda: app.events("cache_opened"))
                await until_true(lambda: app.events("redis_away"))
                assert app.events("background_task_failed") == []
                assert app.events("request_failed") == []

    loop_reports: list[str] = []

    async def listen_and_act() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: loop_reports.append(context["message"]))
        await act()

    asyncio.run(listen_and_act())
    assert loop_reports == []


def test_redis_that_hangs_up_on_everybody_is_one_line_in_the_log(
    start_daemon: StartDaemon, database_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)
        url = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
        daemon = start_daemon("ticketd", {"DATABASE_URL": database_url, "REDIS_URL": url})
        for _ in range(4):
            listening.accept()[0].close()
        wait_until(lambda: daemon.events("redis_away"), 10, "word of it")
    assert daemon.terminate() == 0
    assert daemon.events("library_message") == []
    assert len(daemon.events("redis_away")) == 1
