"""Is the S3 store there? A circuit: while it is known to be away nobody waits for it, and a probe
finds out when it is back. Its state is a metric and, as degraded, part of readiness.

Source: M. Nygard, "Release It!", 2nd ed., 5.2 (Circuit Breaker).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from servicedesk.logs import Log
from ticketd.attachments.bucket import CallRefusedError, StoreAwayError
from ticketd.errors import StorageUnavailableError

PROBE_SECONDS = 10.0
PROBE_SECONDS_WHILE_AWAY = 1.0
REFUSED = "The store of attachments refuses this file"

Found = TypeVar("Found")


class StoreHealth:
    """What this worker knows of the store. `went` and `came_back` are called when that changes;
    nothing is refused before the first probe."""

    def __init__(
        self,
        *,
        probe: Callable[[], Awaitable[None]],
        went: Callable[[], None],
        came_back: Callable[[], None],
        log: Log,
    ) -> None:
        self._probe = probe
        self._went = went
        self._came_back = came_back
        self._log = log
        self._reason = "ok"
        self._woken = asyncio.Event()

    @property
    def is_away(self) -> bool:
        return self._reason != "ok"

    def require(self) -> None:
        """Raises StorageUnavailableError while the store is known to be away."""
        if self.is_away:
            raise StorageUnavailableError

    async def ask(self, call: Awaitable[Found]) -> Found:
        """The outcome of a call, which also tells how the store is: one that is refused speaks for
        its own object only, and the probe finds out about the others. Raises
        StorageUnavailableError."""
        try:
            return await call
        except StoreAwayError as error:
            self._learn(str(error))
            raise StorageUnavailableError from error
        except CallRefusedError as error:
            self._log.warning("storage_refused", reason=str(error))
            self._woken.set()
            raise StorageUnavailableError(REFUSED) from error

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                await self._probe()
            except StoreAwayError as error:
                self._learn(str(error))
            else:
                self._learn("ok")
            self._woken.clear()
            pause = PROBE_SECONDS_WHILE_AWAY if self.is_away else PROBE_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
                # A call has failed: soon, not at once.
                await asyncio.sleep(PROBE_SECONDS_WHILE_AWAY)
            except TimeoutError:
                pass

    def _learn(self, reason: str) -> None:
        was_away, self._reason = self.is_away, reason
        if self.is_away and not was_away:
            self._went()
            self._log.warning("storage_away", reason=reason)
            self._woken.set()
        elif was_away and not self.is_away:
            self._came_back()
            self._log.info("storage_back")
