"""The application under ASGI servers of others."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson
import psycopg
import pytest

from tests.support.processes import PROJECT, free_port, http_status, wait_until
from tests.ticketd.application import NEW
from ticketd.asgi import Message, run_lifespan

SERVERS = {
    "uvicorn": ["uvicorn", "--log-level", "warning"],
    "granian": ["granian", "--interface", "asgi", "--no-ws", "--loop", "uvloop", "--no-log"],
}


@contextmanager
def serving(name: str, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """The URL of the application under a server, which is then stopped by SIGTERM in order."""
    port = free_port()
    command = [sys.executable, "-m", *SERVERS[name], "--factory", "ticketd.app:create_app"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=PROJECT,
            env={"PATH": os.defpath, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: http_status(f"{url}/readyz") == 200, 20, f"readiness under {name}")
        yield url
        server.send_signal(signal.SIGTERM)
        server.wait(10)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("name", SERVERS)
def test_application_serves_under_other_servers(
    name: str, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    environment = {"DATABASE_URL": database_url}
    with serving(name, environment, log) as url, httpx.Client(base_url=url) as client:
        created = client.post("/tickets", json=NEW)
        path = created.headers["location"]
        assert created.status_code == 201
        assert client.get(path).json() == created.json()
        unchanged = client.get(path, headers={"if-none-match": '"1"'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        patched = client.patch(path, json={"status": "in_progress"}, headers={"if-match": '"1"'})
        assert patched.json()["version"] == 2
        large = client.post(
            "/tickets",
            content=b" " * 300_000,
            headers={"content-type": "application/json"},
        )
        assert large.status_code == 413
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert 'route="/tickets",status="201"} 1.0' in client.get("/metrics").text
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT event_type FROM outbox ORDER BY id").fetchall()
    assert rows == [("ticket.created",), ("ticket.updated",)]
    lines = [orjson.loads(line) for line in log.read_text().splitlines()]
    statuses = [line["status"] for line in lines if line["event"] == "request"]
    assert {201, 200, 304, 413} <= set(statuses), "the last lines are flushed at the end"


class FailingService:
    """Cannot start."""

    async def start(self) -> None:
        raise OSError("the disk is gone")

    def announce_stop(self) -> None:
        raise AssertionError("what did not start is not stopped")

    async def stop(self) -> None:
        raise AssertionError("what did not start is not stopped")


def test_failed_start_is_answered_and_not_raised() -> None:
    sent: list[Message] = []
    reported: list[BaseException] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(run_lifespan(receive, send, FailingService(), reported.append))
    assert sent == [{"type": "lifespan.startup.failed", "message": "ticketd: the disk is gone"}]
    assert [str(error) for error in reported] == ["the disk is gone"]
