"""Forgets what is old, a little at a time, so that what the daemon is for goes first.

Every batch is small, and the pause behind it is several times as long as the batch took: a busy
database slows the trimming down, and not the other way round.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psycopg

from servicedesk.database import AWAY
from servicedesk.logs import Log

# Small ones hold their locks shortly and leave vacuum time.
BATCH_ROWS = 1000
PAUSE_SECONDS = 0.01
# Pauses are at least so many times as long as batches: a fifth of one connection's time is used.
RESTS = 4
EVERY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """`forget(age_seconds, rows)` deletes at most `rows` older ones and returns how many it was;
    `name` is how the log calls them."""

    name: str
    age_seconds: float
    forget: Callable[[float, int], Awaitable[int]]


class Trimming:
    """Several daemons may trim at once."""

    def __init__(
        self,
        *,
        chores: Sequence[Chore],
        log: Log,
        rows: int = BATCH_ROWS,
        pause_seconds: float = PAUSE_SECONDS,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._chores = chores
        self._log = log
        self._rows = rows
        self._pause_seconds = pause_seconds
        self._every_seconds = every_seconds

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.trim()
            except (*AWAY, psycopg.Error) as error:
                # Whatever it is, it is no reason to end what the daemon is for.
                self._log.warning("trimming_postponed", reason=str(error))
            await asyncio.sleep(self._every_seconds)

    async def trim(self) -> None:
        """Everything that is too old now. Raises psycopg.Error."""
        trimmed = {chore.name: await self._all(chore) for chore in self._chores}
        if any(trimmed.values()):
            self._log.info("trimmed", **trimmed)

    async def _all(self, chore: Chore) -> int:
        total = 0
        now = asyncio.get_running_loop().time
        while True:
            started = now()
            trimmed = await chore.forget(chore.age_seconds, self._rows)
            total += trimmed
            if trimmed < self._rows:
                return total
            await asyncio.sleep(max(self._pause_seconds, RESTS * (now() - started)))
