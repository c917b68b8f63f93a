"""How many rows wait, counted beside the reading, because to count them may take long."""

import asyncio
import contextlib

from servicedesk.database import AWAY
from servicedesk.queue.lines import Lines
from servicedesk.queue.parts import Parts
from servicedesk.queue.store import QueueStore

COUNTED_ROWS = 10_000
# Of the time, and of one connection, what counting may take.
SHARE = 0.02
LONGEST_PAUSE_SECONDS = 30.0


class Backlog:
    """`unread`: rows of this worker's buckets that are in the table and not in memory, at most
    `COUNTED_ROWS` a bucket, as they were when they were counted last."""

    def __init__(self, store: QueueStore, lines: Lines, parts: Parts, every_seconds: float) -> None:
        self._store = store
        self._lines = lines
        self._parts = parts
        self._every_seconds = every_seconds
        self.unread = 0

    async def run(self) -> None:
        """Count until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            with contextlib.suppress(*AWAY):  # who reads rows tells of it
                self.unread = await self.count()
            pause = min((clock() - began) / SHARE, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(max(self._every_seconds, pause))

    async def count(self) -> int:
        buckets = [bucket for bucket in self._lines.buckets if bucket.is_ours]
        floors = {bucket.number: bucket.floor for bucket in buckets}
        for lane in self._lines.lanes.values():
            if lane.aside is not None:
                for number, floor in floors.items():
                    floors[number] = min(floor, lane.aside.get(number, 0))
        for number, floor in self._parts.floors():
            floors[number] = min(floors.get(number, floor), floor)
        known = sum(bucket.count_known_above(floors[bucket.number]) for bucket in buckets)
        return max(0, await self._store.count_unread(floors, COUNTED_ROWS) - known)
