"""What runs in a worker beside the requests, from the start of the server to its end."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from servicedesk.logs import Log
from ticketd.readiness import Readiness
from ticketd.store import TicketStore

HEARTBEAT_SECONDS = 1.0
STOP_SECONDS = 1.0

Background = Callable[[], Coroutine[Any, Any, None]]


class Heartbeat:
    """Says once a second that the event loop turns, and ends a worker whose parent is gone."""

    def __init__(
        self,
        *,
        report: Callable[[float], None],
        wall_clock: Callable[[], float],
        parent_is_alive: Callable[[], bool],
        end: Callable[[], None],
        log: Log,
    ) -> None:
        self._report = report
        self._wall_clock = wall_clock
        self._parent_is_alive = parent_is_alive
        self._end = end
        self._log = log

    async def beat(self) -> None:
        """Runs until it is cancelled or the parent is gone."""
        while self._parent_is_alive():
            self._report(self._wall_clock())
            await asyncio.sleep(HEARTBEAT_SECONDS)
        self._log.error("parent_gone")
        self._end()


class Lifetime:
    """Starts and stops the store and the background tasks. `end` ends this process in order: a
    worker without one of its tasks is no worker."""

    def __init__(
        self,
        *,
        store: TicketStore,
        readiness: Readiness,
        background: Sequence[Background],
        flush: Sequence[Callable[[], None]],
        end: Callable[[], None],
        log: Log,
    ) -> None:
        self._store = store
        self._readiness = readiness
        self._background = background
        self._flush = flush
        self._end = end
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns after the first look at the database, whatever came of it."""
        await self._store.open()
        await self._readiness.refresh()
        for run in self._background:
            task = asyncio.create_task(run())
            task.add_done_callback(self._report_end)
            self._tasks.append(task)

    def announce_stop(self) -> None:
        """Not ready any more; requests in flight finish."""
        self._readiness.stop()

    async def stop(self) -> None:
        self.announce_stop()
        for task in self._tasks:
            task.cancel()
        # Bounded, because a statement that is cancelled waits for its server's word.
        await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        for flush in self._flush:
            flush()
        await self._store.close()

    def _report_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._log.error("background_task_failed", error=error)
            self._end()
