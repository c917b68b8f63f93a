"""The HTTP server of a worker: its address, its connections, their clocks, and their end."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ticketd.http1 import Connection
from ticketd.middleware import Pipeline

SWEEP_SECONDS = 0.25
# How late a limit may be noticed, as a share of it.
SWEEP_SHARE = 0.1


class HttpServer:
    """Listens on an address until it is stopped; `sweep` has to run beside it. Construct it inside
    the running loop.

    `wall_clock` is time.time, `format_date` writes it as RFC 9110, 5.6.7 says; `report` hears how
    many requests are under way. A client that was heard of within the last `quiet_seconds` is taken
    to be in the midst of its work.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        header_seconds: float,
        idle_seconds: float,
        quiet_seconds: float,
        connection_limit: int,
        wall_clock: Callable[[], float],
        format_date: Callable[[float], str],
        report: Callable[[int], None],
    ) -> None:
        self.pipeline = pipeline
        self.header_seconds = header_seconds
        self.idle_seconds = idle_seconds
        self.quiet_seconds = quiet_seconds
        self.is_stopping = False
        self._limit = connection_limit
        self._wall_clock = wall_clock
        self._format_date = format_date
        self._report = report
        self._connections: set[Connection] = set()
        self._gone = asyncio.Event()
        self.now = 0.0
        self.date_line = b""
        self._look_at_clocks()

    async def start(self, host: str, port: int, *, backlog: int) -> int:
        """Returns the port, for which 0 lets the system choose. Several processes may listen on one
        address, and share its clients. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=backlog, reuse_port=True
        )
        chosen: int = self._listener.sockets[0].getsockname()[1]
        return chosen

    async def sweep(self) -> None:
        """Runs until it is cancelled: keeps the clocks and the time limits."""
        limits = (self.pipeline.request_seconds, self.header_seconds, self.idle_seconds)
        pause = min(SWEEP_SECONDS, min(limits) * SWEEP_SHARE)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            self._look_at_clocks()
            # Outside of this task, because an interrupted request goes on at once.
            loop.call_soon(self._check)

    def _check(self) -> None:
        working = 0
        for connection in list(self._connections):
            working += connection.is_working
            connection.check()
            if self.is_stopping:
                # One may have been accepted just before, or have sent what is no whole head.
                connection.close_when_idle()
        self._report(working)

    async def stop(self) -> None:
        """Give every client its answer and the word that it is the last; return when all have gone.

        Clients that are just sending are heard out, new ones too: a connection that is closed, or
        refused after the handshake, under a request is a request that failed.
        """
        self.is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.quiet_seconds):
                await self._emptied()
        self._listener.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        await self._emptied()

    async def _emptied(self) -> None:
        while self._connections:
            self._gone.clear()
            await self._gone.wait()

    def enter(self, connection: Connection) -> bool:
        self._connections.add(connection)
        return len(self._connections) <= self._limit

    def leave(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._gone.set()

    def _look_at_clocks(self) -> None:
        self.now = asyncio.get_running_loop().time()
        self.date_line = f"date: {self._format_date(self._wall_clock())}\r\n".encode()
