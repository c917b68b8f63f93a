"""Clients that read slowly get all of their answer, also from a server that is stopping."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.ticketd.application import Running, running

LIST = b"GET /tickets?limit=200 HTTP/1.1\r\nHost: x\r\n\r\n"
# As on a slow network: the kernel of the server does not take a whole answer at once.
RECEIVE_BUFFER_BYTES = 32 * 1024
SEGMENT_BYTES = 1400
PORTION_BYTES = 64 * 1024
PAUSE_SECONDS = 0.2


class SlowReader:
    """Takes a portion, and then a rest."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, request: bytes) -> None:
        await self._loop.sock_sendall(self._connection, request)

    async def portion(self) -> bytes:
        """Less than a whole one at the end only."""
        found = b""
        while len(found) < PORTION_BYTES:
            piece = await self._loop.sock_recv(self._connection, PORTION_BYTES - len(found))
            if not piece:
                break
            found += piece
        await asyncio.sleep(PAUSE_SECONDS)
        return found

    async def rest(self) -> bytes:
        """To the end of the connection."""
        found = b""
        while portion := await self.portion():
            found += portion
        return found


@asynccontextmanager
async def slow_reader(app: Running) -> AsyncIterator[SlowReader]:
    url = app.client.base_url
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        connection.settimeout(0)
        await asyncio.get_running_loop().sock_connect(connection, (url.host, url.port))
        yield SlowReader(connection)


def missing(answer: bytes) -> int:
    """How many bytes of its body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return int(length) - len(body)


async def test_answer_that_is_read_steadily_is_read_whole() -> None:
    async with running({"TICKETD_HEADER_TIMEOUT": "1s"}) as app, slow_reader(app) as client:
        for _ in range(200):
            await app.create(description="ё" * 5000)
        await client.send(LIST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert missing(await client.rest()) == 0


async def test_stop_lets_an_answer_out_that_is_read_steadily() -> None:
    async with running() as app, slow_reader(app) as client:
        for _ in range(200):
            await app.create(description="ё" * 5000)
        await app.client.aclose()
        await client.send(LIST)
        first = await client.portion()
        stopping = asyncio.create_task(app.server.stop())
        assert missing(first + await client.rest()) == 0
        await stopping
