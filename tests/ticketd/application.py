"""The application in the test's own process: its settings, its life, and a client for it."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import psycopg

from servicedesk.logs import Log
from ticketd.app import build_app, build_server
from ticketd.asgi import Application, Message
from ticketd.config import Config
from ticketd.listener import HttpServer

NEW = {"title": "Принтер не печатает 🖨️", "requester": "анна@example.org"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An application behind its own HTTP server. `lines` are the JSON lines logged so far."""

    app: Application
    server: HttpServer
    client: httpx.AsyncClient
    stream: io.StringIO

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.stream.getvalue().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == name]

    async def create(self, **members: object) -> dict[str, Any]:
        answer = await self.client.post("/tickets", json=NEW | members)
        assert answer.status_code == 201, answer.text
        ticket: dict[str, Any] = answer.json()
        return ticket

    async def patch(
        self, ticket: Mapping[str, Any], if_match: str = "*", **members: object
    ) -> httpx.Response:
        headers = {"if-match": if_match}
        return await self.client.patch(f"/tickets/{ticket['id']}", json=members, headers=headers)


@asynccontextmanager
async def running(environment: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Build the application from an environment, start it, and stop it at the end."""
    stream = io.StringIO()
    config = Config.from_environment({"LOG_LEVEL": "debug"} | dict(environment or {}))
    app = build_app(config, Log("ticketd", level=config.log_level, stream=stream), in_tasks=False)
    server = build_server(config, app.pipeline)
    await app.service.start()
    sweeping = asyncio.create_task(server.sweep())
    try:
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0, backlog=100)}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield Running(app=app, server=server, client=client, stream=stream)
    finally:
        await server.stop()
        sweeping.cancel()
        await app.service.stop()


@asynccontextmanager
async def in_tasks(environment: Mapping[str, str]) -> AsyncIterator[Application]:
    """The application as other ASGI servers run it."""
    config = Config.from_environment(environment)
    app = build_app(config, Log("ticketd", stream=io.StringIO()), in_tasks=True)
    await app.service.start()
    yield app
    await app.service.stop()


class Exchange:
    """One request at the level of ASGI: `receive` gives out messages, `sent` keeps the answer."""

    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.received += 1
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return bytes(self.sent[1]["body"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}


def http_scope(method: str, path: str, **headers: str) -> dict[str, Any]:
    """Underscores in the names of headers stand for dashes."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": pairs,
    }


def chunk(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Polls a condition until it is true; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def somebody_waits_for_a_lock(url: str) -> bool:
    """In the database of this URL."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await cursor.fetchone() != (0,)
