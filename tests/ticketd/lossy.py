"""Networks with faults: a TCP proxy in front of PostgreSQL."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536
# For a ticketd that asks again as often as its network loses the answer, on a busy machine too.
NEVER_GIVES_UP = {"TICKETD_DATABASE_RETRY": "60s", "TICKETD_REQUEST_TIMEOUT": "120s"}


class LossyProxy:
    """Passes everything on until a client sends `marker`; then the server's answer to that is
    swallowed and the connection cut, `losses` times."""

    def __init__(self, host: str, port: int, marker: bytes, losses: int) -> None:
        self._target = (host, port)
        self._marker = marker
        self.losses = losses
        self.connections: list[asyncio.Task[None]] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        cut = asyncio.Event()
        answers = asyncio.create_task(self._answers(server_reader, writer, cut))
        async for data in _pieces(reader):
            if self._marker in data and self.losses:
                self.losses -= 1
                cut.set()
            server_writer.write(data)
        server_writer.close()
        await answers
        await _closed(server_writer)
        await _closed(writer)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event
    ) -> None:
        async for data in _pieces(reader):
            # An answer exists, so the commit is done.
            if cut.is_set():
                break
            writer.write(data)
        writer.close()


class SilentProxy:
    """Passes everything on until `silence` is set; then nothing any more, nor new connections,
    and no connection is closed either: what a pulled cable looks like."""

    def __init__(self, host: str, port: int, silence: asyncio.Event) -> None:
        self._target = (host, port)
        self._silence = silence
        self._writers: list[asyncio.StreamWriter] = []
        self.connections: list[asyncio.Task[None]] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers += (writer, server_writer)
        await asyncio.gather(self._pass(reader, server_writer), self._pass(server_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for data in _pieces(reader):
            if not self._silence.is_set():
                writer.write(data)
        await _closed(writer)

    def close(self) -> None:
        """Cut whatever a side still holds open."""
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def silenced(url: str) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The URL of a database behind a network that falls silent when the event is set."""
    silence = asyncio.Event()
    host, port = _address(url)
    proxy = SilentProxy(host, port, silence)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        yield _through(url, server), silence
        proxy.close()
    await asyncio.gather(*proxy.connections)


@asynccontextmanager
async def severable(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """The URL of a database behind a network, and what cuts every connection there is; the next
    ones are let through."""
    proxy = SilentProxy(*_address(url), asyncio.Event())
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        yield _through(url, server), proxy.close
    await asyncio.gather(*proxy.connections)


@asynccontextmanager
async def lossy(url: str, marker: bytes, losses: int) -> AsyncIterator[str]:
    """The URL of a database, behind a proxy that loses the answers to what holds `marker`."""
    host, port = _address(url)
    proxy = LossyProxy(host, port, marker, losses)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        yield _through(url, server)
    await asyncio.gather(*proxy.connections)
    assert proxy.losses == 0, "nothing was lost, so nothing was tried"


@asynccontextmanager
async def mute(url: str, marker: bytes) -> AsyncIterator[str]:
    """The same, and no answer to what holds `marker` ever arrives."""
    proxy = LossyProxy(*_address(url), marker, sys.maxsize)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    async with server:
        yield _through(url, server)
    await asyncio.gather(*proxy.connections)
    assert proxy.losses < sys.maxsize, "nothing was lost, so nothing was tried"


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes until the end. A process that is killed with something unread resets its
    connections, which is an end as well."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            yield data


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _through(url: str, server: asyncio.Server) -> str:
    """The same database, by way of the proxy."""
    parts = urlsplit(url)
    port = server.sockets[0].getsockname()[1]
    netloc = parts.netloc.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
    return parts._replace(netloc=netloc).geturl()
