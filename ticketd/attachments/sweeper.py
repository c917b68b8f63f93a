"""Removes what was never completed and what was deleted: the object first, then its row.

Whatever dies in between is done again, because the row is still there and comes back: a row is
only forgotten when its object is gone and no upload of it can arrive any more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from servicedesk.logs import Log
from ticketd.attachments.attachment import Attachment
from ticketd.attachments.health import StoreHealth
from ticketd.attachments.store import AttachmentStore
from ticketd.errors import DatabaseUnavailableError, OverloadedError, StorageUnavailableError

BATCH = 100
SIDE_BY_SIDE = 8


class Sweeper:
    """`wake` after a removal; otherwise it looks every `sweep_seconds`. `delete` deletes an object
    by its key. `count` hears of every object that was deleted."""

    def __init__(
        self,
        *,
        store: AttachmentStore,
        delete: Callable[[str], Awaitable[None]],
        health: StoreHealth,
        sweep_seconds: float,
        count: Callable[[int], None],
        log: Log,
    ) -> None:
        self._store = store
        self._delete = delete
        self._health = health
        self._sweep_seconds = sweep_seconds
        self._count = count
        self._log = log
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            self._woken.clear()
            if not self._health.is_away:
                await self._sweep_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sweep_seconds):
                    await self._woken.wait()

    async def _sweep_all(self) -> None:
        """An outage ends it until the next time; it says so elsewhere."""
        try:
            while await self._sweep() == BATCH and not self._health.is_away:
                pass
        except (DatabaseUnavailableError, OverloadedError, StorageUnavailableError):
            pass
        except Exception as error:  # the boundary of a sweep: what is left over is due again
            self._log.error("sweep_failed", error=error)

    async def _sweep(self) -> int:
        """How many were due. A second sweeper that takes the same ones does no harm."""
        due = await self._store.take_due(BATCH, self._sweep_seconds)
        turns = asyncio.Semaphore(SIDE_BY_SIDE)
        outcomes = await asyncio.gather(*(self._remove(each, turns) for each in due))
        gone = [each.id for each, is_gone in zip(due, outcomes, strict=True) if is_gone]
        if gone:
            await self._store.forget(gone)
            self._count(len(gone))
        return len(due)

    async def _remove(self, attachment: Attachment, turns: asyncio.Semaphore) -> bool:
        async with turns:
            if self._health.is_away:
                return False
            try:
                await self._health.ask(self._delete(attachment.key))
            except StorageUnavailableError:
                return False
            return True
