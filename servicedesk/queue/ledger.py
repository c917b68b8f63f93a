"""Writes the fate of rows to the database: deletions in batches, parked keys, dead rows.

What was acknowledged is written sooner or later, also when the lease is gone or the database is
away for a while: the far side has it, so nobody needs to send it again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from servicedesk.backoff import Backoff
from servicedesk.database import AWAY
from servicedesk.logs import Log
from servicedesk.queue.lines import Lines
from servicedesk.queue.parking import ParkedKey, Parking
from servicedesk.queue.row import Failure, QueuedRow
from servicedesk.queue.store import QueueStore

# Small, so that deletions come in between.
PARKED_AT_ONCE = 500
PAUSE = Backoff(base_seconds=0.1, cap_seconds=2.0)


class Ledger:
    """`run` writes what the other methods note down, in the order noted."""

    def __init__(
        self,
        *,
        store: QueueStore,
        owner: str,
        lines: Lines,
        parking: Parking,
        batch_rows: int,
        log: Log,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._owner = owner
        self._lines = lines
        self._parking = parking
        self._batch_rows = batch_rows
        self._log = log
        self._random = random
        self._acknowledged: deque[QueuedRow] = deque()
        self._freed: deque[tuple[int, str, int]] = deque()
        self._parked: deque[tuple[ParkedKey, int | None]] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def acknowledge(self, rows: Sequence[QueuedRow]) -> None:
        """The rows have arrived; their keys, where they were parked, are free."""
        self._acknowledged.extend(rows)
        if len(self._parking):
            for row in rows:
                self.free(row.bucket, row.key, row.id)
        self._note()

    def park(self, parked: ParkedKey) -> None:
        """Under the epoch that its bucket is held under now."""
        self._parked.append((parked, self._lines.buckets[parked.bucket].epoch))
        self._note()

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        """The row's dead letter is out: move the row and free its key, however long it takes."""
        await self._insist(lambda: self._store.bury(row, failure))
        parked = self._parking.forget(row.key, row.id)
        if parked is not None and parked.waiting:
            # Reads have passed over the rows that came to the key meanwhile.
            self._lines.read_again(row.bucket, row.key, row.id)
        self._lines.retire([row])

    def free(self, bucket: int, key: str, row_id: int) -> None:
        """A parked key has nothing left to wait for, unless it is a row after this one."""
        parked = self._parking.free(key, row_id)
        if parked is None:
            return
        if parked.waiting:
            # Reads have passed over the rows that came to the key since it was parked.
            self._lines.read_again(bucket, key, parked.first_id)
        self._freed.append((bucket, key, row_id))
        self._note()

    def _note(self) -> None:
        self._idle.clear()
        self._work.set()

    async def settled(self) -> None:
        """Returns when everything noted is written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled. Whatever gathers while one statement runs goes into the next."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._acknowledged or self._freed or self._parked:
                await self._write_some()
            self._idle.set()

    async def _write_some(self) -> None:
        count = min(len(self._acknowledged), self._batch_rows)
        rows = [self._acknowledged.popleft() for _ in range(count)]
        freed, self._freed = self._freed, deque()
        count = min(len(self._parked), PARKED_AT_ONCE)
        parked = [self._parked.popleft() for _ in range(count)]
        if rows:
            await self._insist(lambda: self._store.complete(rows))
            self._lines.retire(rows)
        if freed:
            # After the deletion: a crash in between leaves a parked key whose row is gone, which
            # the next owner frees; the other way round its attempts would be forgotten.
            await self._insist(lambda: self._store.unpark(list(freed)))
            for _, key, row_id in freed:
                self._parking.freed(key, row_id)
        if parked:
            await self._save(parked)

    async def _save(self, parked: Sequence[tuple[ParkedKey, int | None]]) -> None:
        # A key is there twice when its bucket was lost and regained in between: the later counts.
        latest = {record.key: (record, epoch) for record, epoch in parked}
        await self._insist(lambda: self._park(list(latest.values())))
        for record, _ in parked:
            self._parking.save(record)
            self._lines.buckets[record.bucket].unsettled -= 1

    async def _park(self, parked: Sequence[tuple[ParkedKey, int | None]]) -> None:
        now = asyncio.get_running_loop().time()
        first_failed_at = await self._store.park(parked, owner=self._owner, now=now)
        for record, _ in parked:
            record.first_failed_at = first_failed_at.get(record.key, record.first_failed_at)

    async def _insist(self, write: Callable[[], Awaitable[object]]) -> None:
        """Repeat a write until the database takes it; every one of them may be repeated."""
        attempts = 0
        while True:
            try:
                await write()
            except AWAY as error:
                attempts += 1
                if attempts == 1:
                    self._log.warning("queue_write_waits", error=str(error))
                await asyncio.sleep(PAUSE.delay_seconds(attempts, self._random))
            else:
                return
