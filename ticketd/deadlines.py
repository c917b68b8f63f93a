"""The time limit of requests, kept by one sweeper instead of a timer for each of them."""

import asyncio
from collections.abc import Callable

from ticketd.messages import Request

# How late a request may be noticed, as a share of the limit, and at most in seconds.
SWEEP_SHARE = 0.1
SWEEP_SECONDS = 0.25
# A request that does not end when it is told to is told again.
GRACE_SECONDS = 1.0


class Deadlines:
    """The requests being worked on. `expire` of one that takes longer than `seconds` is called,
    and again when the request still goes on after GRACE_SECONDS."""

    def __init__(
        self, seconds: float, clock: Callable[[], float], report: Callable[[int], None]
    ) -> None:
        self.seconds = seconds
        self._clock = clock
        self._report = report
        self._running: dict[Request, tuple[float, Callable[[], None]]] = {}

    def enter(self, request: Request, expire: Callable[[], None]) -> None:
        self._running[request] = (self._clock(), expire)

    def leave(self, request: Request) -> None:
        self._running.pop(request, None)

    async def sweep(self) -> None:
        """Runs until it is cancelled; `report` hears how many requests are under way."""
        pause = min(SWEEP_SECONDS, self.seconds * SWEEP_SHARE)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            self._report(len(self._running))
            now = self._clock()
            for request, (started, expire) in list(self._running.items()):
                late_seconds = now - started - self.seconds
                if late_seconds > (GRACE_SECONDS if request.timed_out else 0.0):
                    # Outside of this task, because a request driven by hand goes on at once.
                    loop.call_soon(expire)
