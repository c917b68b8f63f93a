"""A TCP proxy on loopback that spoils connections as a test wants: delayed, reset, cut in the midst
of a request, silent, half open. It changes no byte and never brings them out of order.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

CHUNK_BYTES = 65_536
MOST_CHUNKS = 64
MOST_LINKS = 500
ANSWER_SECONDS = 10.0
RESET = struct.pack("ii", 1, 0)

Chunks = asyncio.Queue[tuple[float, bytes]]
Answer = TypeVar("Answer")


class Link:
    """One connection of a client and its other half to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        # The next request is to be cut off in its middle.
        self.cut_due = False
        # Nothing passes any more, and the client is not told.
        self.forsaken = False

    def reset(self) -> None:
        """Both sides get a RST, and what is under way is lost."""
        for side in (self.client, self.server):
            _reset(side)

    def forsake(self) -> None:
        """The server's side ends; the client's stays open and silent, as behind a router that has
        forgotten the connection."""
        self.forsaken = True
        _reset(self.server)


class TcpProxy:
    """Passes connections to `port` on to the port `target` inside a `with`, whether or not a server
    is there yet; its methods act before they return."""

    def __init__(self, port: int, target: int) -> None:
        self.accepted = self.resets = self.cuts = self.forsaken = 0
        self.port = port
        self._target = target
        self._links: set[Link] = set()
        self._delay = (0.0, 0.0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None

    def delay(self, least_seconds: float, most_seconds: float) -> None:
        """From now on every chunk waits so long, in either direction; in order all the same."""
        self._delay = (least_seconds, most_seconds)

    def hold(self) -> None:
        """A black hole: nothing passes in either direction, nobody is told, connections included
        that are made meanwhile."""
        self._do(self._flowing.clear)

    def release(self) -> None:
        """What was held goes on, late: as TCP sends again what a network has dropped."""
        self._do(self._flowing.set)

    def reset_all(self) -> None:
        self.resets += self._each(Link.reset)

    def forsake_all(self) -> None:
        self.forsaken += self._each(Link.forsake)

    def cut_all(self) -> None:
        """The next request on each connection arrives by half, then the connection is reset."""

        def cut(link: Link) -> None:
            link.cut_due = True

        self._each(cut)

    def _each(self, act: Callable[[Link], None]) -> int:
        """Do it to every connection that is whole; how many these were."""

        def all_of_them() -> int:
            whole = [link for link in self._links if not link.forsaken]
            for link in whole:
                act(link)
            return len(whole)

        return self._do(all_of_them)

    def _do(self, act: Callable[[], Answer]) -> Answer:
        async def inside() -> Answer:
            return act()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(ANSWER_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            if len(self._links) >= MOST_LINKS:
                raise OSError("too many connections")
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(client)
            return
        link = Link(client, server)
        self._links.add(link)
        try:
            await _first_end([self._pass(link, reader, server), self._pass(link, answers, client)])
            if link.forsaken:
                # Kept, or the client would be told.
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            # The end of the proxy; asyncio's server would log it as an error of ours.
            pass
        finally:
            self._links.discard(link)
            link.reset()

    async def _pass(
        self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """One direction, until either side ends."""
        chunks: Chunks = asyncio.Queue(MOST_CHUNKS)
        with suppress(OSError):
            await _first_end([self._take(source, chunks), self._give(link, chunks, sink)])

    async def _take(self, source: asyncio.StreamReader, chunks: Chunks) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            due_at = self._loop.time() + random.uniform(*self._delay)
            await chunks.put((due_at, chunk))
        await chunks.join()

    async def _give(self, link: Link, chunks: Chunks, sink: asyncio.StreamWriter) -> None:
        while True:
            due_at, chunk = await chunks.get()
            await asyncio.sleep(max(0.0, due_at - self._loop.time()))
            await self._flowing.wait()
            if link.cut_due and sink is link.server:
                self.cuts += 1
                sink.write(chunk[: len(chunk) // 2])
                await sink.drain()
                return
            sink.write(chunk)
            await sink.drain()
            chunks.task_done()

    def __enter__(self) -> Self:
        self._thread.start()
        opened = asyncio.start_server(self._serve, "127.0.0.1", self.port)
        future = asyncio.run_coroutine_threadsafe(opened, self._loop)
        self._server = future.result(ANSWER_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._do(self._server.close)
        asyncio.run_coroutine_threadsafe(_end_all(), self._loop).result(ANSWER_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_SECONDS)
        self._loop.close()


async def _first_end(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Until one of them ends; the others are cancelled, and an error of any is dropped: here it
    only says that a connection is over."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    # Sockets that were aborted are closed in the next turn of the loop.
    await asyncio.sleep(0)


def _reset(side: asyncio.StreamWriter) -> None:
    peer: socket.socket | None = side.get_extra_info("socket")
    if peer is not None:
        with suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    side.transport.abort()
