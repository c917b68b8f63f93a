"""Finds rows to try a part of the far side with that has been away for long.

The keys that it was tried with are spent in the end. What else waits for it is in the database, and
a few rows of it are read for themselves: the floors of the others stay where they are.
"""

from collections.abc import Sequence

from servicedesk.queue.lines import Bucket, Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.part import Part
from servicedesk.queue.parts import HELD_LINES, Parts
from servicedesk.queue.row import Most, QueuedRow, Span
from servicedesk.queue.row_store import RowStore

# Read at once: of so many buckets, so many rows each, of which most are for other parts.
BUCKETS = 4
ROWS = 256


class Trials:
    """Runs in the task of the reading, so what was passed over does not change under it."""

    def __init__(self, *, rows: RowStore, lines: Lines, parking: Parking, parts: Parts) -> None:
        self._rows = rows
        self._lines = lines
        self._parking = parking
        self._parts = parts

    async def read(self) -> bool:
        """Read on for each part that runs dry; True when there was something to read."""
        found = False
        for part in [part for part in self._parts.away.values() if part.runs_dry]:
            if self._lines.has_room(part.lane):
                found = await self._read(part) or found
        return found

    async def _read(self, part: Part) -> bool:
        spans = self._spans(part)
        if not spans:
            if all(self._lines.buckets[number].reset is None for number in part.passed):
                end_search(part)
            return False
        most = Most(rows=ROWS, payload_bytes=max(1, self._lines.lane_bytes // 4 // len(spans)))
        buckets = self._lines.buckets
        epochs = {span.bucket: buckets[span.bucket].epoch for span in spans}
        rows: dict[int, list[QueuedRow]] = {span.bucket: [] for span in spans}
        for row in await self._rows.read(spans, most):
            rows[row.bucket].append(row)
        admitted = 0
        for number, some in rows.items():
            bucket = buckets[number]
            # What was lost, or is to be read again by now, is left to another time.
            if part.runs_dry and bucket.epoch == epochs[number] and bucket.reset is None:
                admitted += self._admit(part, bucket, some, HELD_LINES - admitted)
        if admitted:
            part.runs_dry = False
        return True

    def _admit(self, part: Part, bucket: Bucket, rows: Sequence[QueuedRow], most: int) -> int:
        """Admit at most so many of the rows, which are the next ones of the bucket."""
        passed, admitted = part.passed[bucket.number], 0
        for row in rows:
            if admitted == most:
                return admitted
            if row.id > bucket.safe_floor:
                break
            passed.looked = row.id
            admitted += self._tries_with(part, row)
        else:
            if rows:
                return admitted
        passed.looked = bucket.safe_floor
        return admitted

    def _tries_with(self, part: Part, row: QueuedRow) -> bool:
        """Admit a row that was passed over, the first of its key, to try the part with; False when
        it is of another part, or its key is in memory, was tried already, or waits for itself."""
        is_fit = (
            self._parts.is_of(part.name, row.key)
            and row.key not in self._lines.lines
            and row.key not in part.spent
            and row.id not in self._lines.buckets[row.bucket].known
            and not self._parking.postpone(row.key)
            and self._lines.admit(row, part.lane)
        )
        if is_fit:
            part.behind.add(row.key)
        return is_fit

    def _spans(self, part: Part) -> list[Span]:
        """Where to look. Up to the safe floor, so that no earlier row of a key can still appear;
        and not where something else is to be read again, which may be an earlier row of it."""
        found = []
        for number, passed in part.passed.items():
            bucket = self._lines.buckets[number]
            end = min(passed.look_to, bucket.safe_floor)
            if bucket.is_ours and bucket.reset is None and passed.looked < end:
                found.append(Span(bucket=number, safe_floor=passed.looked, floor=passed.looked))
        return found[:BUCKETS]


def end_search(part: Part) -> None:
    """No other key was found; with the second time in a row, those that are spent count again."""
    part.runs_dry = False
    if part.times_dry > 1:
        part.spent.clear()
    for passed in part.passed.values():
        passed.looked = passed.floor
