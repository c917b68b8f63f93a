"""The time limit of requests, kept by one sweeper instead of a timer for each of them."""

import asyncio
from collections.abc import Callable

from ticketd.asgi import Request

# How late a request may be noticed, as a share of the limit, and at most in seconds.
SWEEP_SHARE = 0.1
SWEEP_SECONDS = 0.25
# psycopg asks the server to stop the statement and waits for its word; a server that does not
# answer gets this long.
GRACE_SECONDS = 1.0


class Deadlines:
    """The requests being worked on. One that takes longer than `seconds` has `timed_out` set and
    its task cancelled, and again and again when it still goes on after GRACE_SECONDS."""

    def __init__(
        self, seconds: float, clock: Callable[[], float], report: Callable[[int], None]
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._report = report
        self._running: dict[asyncio.Task[object], tuple[float, Request]] = {}

    def enter(self, task: asyncio.Task[object], started: float, request: Request) -> None:
        """`started` is by the same clock."""
        self._running[task] = (started, request)

    def leave(self, task: asyncio.Task[object]) -> None:
        del self._running[task]

    async def sweep(self) -> None:
        """Runs until it is cancelled; `report` hears how many requests are under way."""
        pause = min(SWEEP_SECONDS, self.seconds * SWEEP_SHARE)
        while True:
            await asyncio.sleep(pause)
            self._report(len(self._running))
            now = self._clock()
            for task, (started, request) in list(self._running.items()):
                late_seconds = now - started - self.seconds
                if late_seconds > (GRACE_SECONDS if request.timed_out else 0.0):
                    request.timed_out = True
                    task.cancel()
