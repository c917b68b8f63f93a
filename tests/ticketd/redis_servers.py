"""Valkey servers for one test, and a network before them that can be led elsewhere."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import redis

from deploy.local.ports import free_port
from deploy.local.valkey import Valkey

CHUNK_BYTES = 65_536
PASSWORD = secrets.token_urlsafe(12)


@contextmanager
def valkey(directory: Path) -> Iterator[Valkey]:
    """To be stopped and started again, on the same port. All have the same password."""
    directory.mkdir(parents=True)
    server = Valkey(
        directory=directory / "data",
        port=free_port(),
        password=PASSWORD,
        log=directory / "valkey.log",
    )
    server.start()
    server.wait_ready()
    try:
        yield server
    finally:
        server.stop()


def client(server: Valkey) -> redis.Redis:
    return redis.Redis.from_url(server.url(), socket_timeout=5)


class Route:
    """A TCP address whose connections lead to a server's port. When the port is changed, what was
    open is cut: what a virtual address or a name does in a failover. While it is `slow`, answers
    stay away."""

    def __init__(self, port: int) -> None:
        self._to_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._fast = asyncio.Event()
        self._fast.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def lead_to(self, port: int) -> None:
        self._to_port = port
        self.cut()

    def slow_down(self) -> None:
        self._fast.clear()

    def speed_up(self) -> None:
        self._fast.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, to_server}
        await asyncio.gather(
            self._pass(reader, to_server), self._pass(from_server, writer, answers=True)
        )
        self._writers -= {writer, to_server}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if answers:
                    await self._fast.wait()
                writer.write(data)
        except OSError:
            pass
        writer.close()


@asynccontextmanager
async def routed(server: Valkey) -> AsyncIterator[tuple[str, Route]]:
    """The URL of a server by way of a Route."""
    route = Route(server.port)
    listening = await asyncio.start_server(route.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server.url().replace(f":{server.port}/", f":{port}/"), route
    finally:
        listening.close()
        route.speed_up()
        route.cut()
        await listening.wait_closed()
