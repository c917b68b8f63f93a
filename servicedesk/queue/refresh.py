"""Takes over what the table of parked keys says: what an operator changed, and what was parked by
whoever had the buckets before.

However many keys are parked, the event loop is held up by a bounded number of them at a time.
"""

import asyncio
from collections.abc import Sequence

from servicedesk.queue.ledger import Ledger
from servicedesk.queue.lines import Bucket, Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.reading import Reading
from servicedesk.queue.row import Parked
from servicedesk.queue.store import QueueStore

# What is fetched and looked at before others have their turn, if not one bucket alone has more.
KEYS_AT_ONCE = 2_000


class Refresh:
    """Of all buckets that are held."""

    def __init__(
        self,
        *,
        store: QueueStore,
        lines: Lines,
        parking: Parking,
        reading: Reading,
        ledger: Ledger,
    ) -> None:
        self._store = store
        self._lines = lines
        self._parking = parking
        self._reading = reading
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Once; each bucket's keys are as the table had them at some time meanwhile."""
        began_at = self._loop.time()
        ours = [bucket for bucket in self._lines.buckets if bucket.is_ours]
        step = max(1, len(ours) * KEYS_AT_ONCE // max(KEYS_AT_ONCE, len(self._parking)))
        for start in range(0, len(ours), step):
            await self._take_over(ours[start : start + step])
        self._parking.forget_freed(began_at)
        self._parking.forget_tried(self._lines.lines)

    async def _take_over(self, buckets: Sequence[Bucket]) -> None:
        epochs = {bucket.number: bucket.epoch for bucket in buckets}
        rows: dict[int, list[Parked]] = {number: [] for number in epochs}
        asked_at = self._loop.time()
        for row in await self._store.parked(list(epochs)):
            rows[row.bucket].append(row)
        for bucket in buckets:
            # One that was lost in between is somebody else's now.
            if bucket.is_ours and bucket.epoch == epochs[bucket.number]:
                self._take_over_bucket(bucket.number, rows[bucket.number], asked_at)

    def _take_over_bucket(self, bucket: int, rows: Sequence[Parked], asked_at: float) -> None:
        for freed in self._parking.refresh(bucket, rows, asked_at):
            self._reading.resume(freed)
        for row, last_id in self._parking.abandoned(rows):
            if row.key not in self._lines.lines:
                self._ledger.free(row.bucket, row.key, last_id)
