"""Which Redis is believed as a cache: what the database says, seen again several times a second.

A worker may use what it has seen for LEASE_SECONDS. Whoever opens the gate makes everybody wait as
long before the cache is used, and whoever closes it waits as long before answering, so that no two
workers ever act on views that contradict each other (docs/caching.md).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import psycopg

from servicedesk.logs import Log
from servicedesk.wire import Connection
from ticketd.pending import Pending, TaskPending

LEASE_SECONDS = 0.3
POLL_SECONDS = 0.1


class View(NamedTuple):
    """The gate as it was when it was looked at; `server` is empty while it is closed."""

    generation: int
    server: str


UNSEEN = View(-1, "")


class Gate:
    """`run` has to run beside the requests. `my_server` names the Redis that this worker is
    connected to, empty for none that could be a cache; `now` is monotonic."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Connection]],
        my_server: Callable[[], str],
        now: Callable[[], float],
        in_tasks: bool,
        log: Log,
    ) -> None:
        self._connect = connect
        self._my_server = my_server
        self._now = now
        self._pending: type[Pending[None]] = TaskPending if in_tasks else Pending
        self._log = log
        self._view = UNSEEN
        self._seen_at = 0.0
        self._first_seen_at = 0.0
        self._is_reported = False
        self._wanted = asyncio.Event()
        self._closings: list[Pending[None]] = []
        self._lookings: list[Pending[None]] = []

    def is_valid(self) -> bool:
        """Is the view fresh enough to act on?"""
        return self._now() - self._seen_at < LEASE_SECONDS and self._view is not UNSEEN

    @property
    def is_closed(self) -> bool:
        """For certain. Then nobody uses the cache, and nothing has to be invalidated."""
        return self.is_valid() and not self._view.server

    @property
    def generation(self) -> int:
        return self._view.generation

    def may_be_used(self) -> bool:
        """May an answer be given from this worker's Redis at this moment, or be put there?"""
        return self.is_mine() and self._now() - self._first_seen_at > LEASE_SECONDS

    def is_mine(self) -> bool:
        """Does the cache's server, so far as is known, hear this worker?"""
        return self.is_valid() and self._view.server == self._my_server() != ""

    def look(self) -> Pending[None]:
        """Settled with the next look."""
        looking = self._pending()
        self._lookings.append(looking)
        self._wanted.set()
        return looking

    def close(self) -> Pending[None]:
        """Settled when nobody uses the cache as it was any more."""
        closing = self._pending()
        self._closings.append(closing)
        self._wanted.set()
        return closing

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                async with await self._connect() as connection:
                    while True:
                        await self._look(connection)
                        await self._close_if_wanted(connection)
                        await self._open_if_possible(connection)
                        await self._pause()
            except psycopg.Error as error:
                # Away, or not migrated yet: either ends by itself, and the worker does without.
                if not self._is_reported:
                    self._log.warning("cache_gate_unseen", error_class=type(error).__name__)
                    self._is_reported = True
                await asyncio.sleep(POLL_SECONDS)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wanted.wait()
        except TimeoutError:
            return

    # One row, always.
    LOOK = "SELECT generation, coalesce(server, '') FROM cache_gate"

    async def _look(self, connection: Connection) -> None:
        asked_at = self._now()
        cursor = await connection.execute(self.LOOK)
        row = await cursor.fetchone()
        if row is None:
            return
        view = View(int(str(row[0])), str(row[1]))
        if view != self._view:
            self._first_seen_at = self._now()
            self._view = view
        self._seen_at, self._is_reported = asked_at, False
        lookings, self._lookings = self._lookings, []
        for looking in lookings:
            asyncio.get_running_loop().call_soon(looking.settle, None)

    # One row, always; whoever closes the generation first has closed it for all.
    CLOSE = """
    UPDATE cache_gate SET generation = generation + 1, server = NULL, changed_at = clock_timestamp()
    WHERE server IS NOT NULL
    """

    async def _close_if_wanted(self, connection: Connection) -> None:
        self._wanted.clear()
        if not self._closings:
            return
        cursor = await connection.execute(self.CLOSE)
        closings, self._closings = self._closings, []
        if cursor.rowcount:
            self._log.warning("cache_closed", reason="a change could not be made known to Redis")
        loop = asyncio.get_running_loop()
        for closing in closings:
            loop.call_later(LEASE_SECONDS, closing.settle, None)
        await self._look(connection)

    # One row, always. A closed gate stays so for a while: two groups of workers that see two
    # servers must not take turns.
    OPEN = """
    UPDATE cache_gate
    SET generation = generation + 1, server = %s, changed_at = clock_timestamp()
    WHERE server IS NULL AND changed_at < clock_timestamp() - interval '2 seconds'
    """

    async def _open_if_possible(self, connection: Connection) -> None:
        server = self._my_server()
        if server and self.is_closed:
            cursor = await connection.execute(self.OPEN, (server,))
            if cursor.rowcount:
                self._log.info("cache_opened")
