"""Forgets what is old in the inbox and in the record of deliveries, a little at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from notifyd.store import InboxStore
from servicedesk.database import AWAY
from servicedesk.logs import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimSettings:
    """`rows` bounds one statement; small ones hold their locks shortly and leave vacuum time."""

    inbox_seconds: float
    done_seconds: float
    rows: int = 1000
    every_seconds: float = 60.0
    pause_seconds: float = 0.05


class Trimming:
    """Several notifyd may trim at once; they pass over each other's rows."""

    def __init__(self, *, store: InboxStore, settings: TrimSettings, log: Log) -> None:
        self._store = store
        self._settings = settings
        self._log = log

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.trim()
            except AWAY as error:
                self._log.warning("trimming_postponed", reason=str(error))
            await asyncio.sleep(self._settings.every_seconds)

    async def trim(self) -> None:
        """Everything that is too old now. Raises psycopg.Error."""
        inbox = await self._all(self._store.trim_inbox, self._settings.inbox_seconds)
        done = await self._all(self._store.trim_done, self._settings.done_seconds)
        if inbox or done:
            self._log.info("trimmed", inbox=inbox, done=done)

    async def _all(self, trim: Callable[[float, int], Awaitable[int]], age_seconds: float) -> int:
        total = 0
        while True:
            trimmed = await trim(age_seconds, self._settings.rows)
            total += trimmed
            if trimmed < self._settings.rows:
                return total
            await asyncio.sleep(self._settings.pause_seconds)
