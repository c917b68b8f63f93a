"""The rows in memory: in line behind their key, every line in the lane of its receiver.

Only bookkeeping, no I/O. What holds at any time: at most one row of a key is under way; rows of a
key are in order of id; a row is in memory once, from its admission until its deletion is certain.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from servicedesk.bucket import BUCKETS
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.row import QueuedRow, Span
from servicedesk.queue.settings import DrainSettings

# A row that finds the far side, or its part, away this often, while others get through, is itself
# the trouble, or is taken for it.
STRIKES = 3


@dataclass(slots=True, kw_only=True)
class Bucket:
    """One bucket as this worker sees it.

    `floor`: rows up to it have been read, but for those that were not visible yet. `safe_floor`:
    no row up to it can still appear, and each was admitted, set aside or parked. `reset`: where
    the next read goes back to. `known`: ids in memory or just deleted (`retired`). `passed_over`:
    ids that were read and left, above `safe_floor`. `unsettled`: rows whose fate is not yet in the
    database; a bucket is handed over when there are none.
    """

    number: int
    epoch: int | None = None
    leaving: bool = False
    floor: int = 0
    safe_floor: int = 0
    reset: int | None = None
    known: set[int] = field(default_factory=set)
    retired: list[int] = field(default_factory=list)
    passed_over: set[int] = field(default_factory=set)
    unsettled: int = 0

    @property
    def is_ours(self) -> bool:
        return self.epoch is not None and not self.leaving

    def gain(self, epoch: int) -> None:
        self.epoch, self.leaving = epoch, False
        self.floor = self.safe_floor = 0
        self.reset = None
        self.passed_over.clear()

    def go_back(self, floor: int) -> None:
        """From the next read on, read again from above `floor`; known rows are passed over.

        A read that is under way is not disturbed: it may still raise the floor.
        """
        self.reset = floor if self.reset is None else min(self.reset, floor)

    def surely_read(self) -> int:
        """The floor below which no row is left to read."""
        return self.safe_floor if self.reset is None else min(self.safe_floor, self.reset)

    def begin_read(self) -> Span:
        """Where a read that starts now has to look. It cannot find what was deleted before, so
        that need not be known any longer."""
        self.known.difference_update(self.retired)
        self.retired.clear()
        if self.reset is not None:
            self.floor = min(self.floor, self.reset)
            self.safe_floor = min(self.safe_floor, self.floor)
            self.reset = None
        if self.passed_over:
            low, high = self.safe_floor, self.floor
            self.passed_over = {row_id for row_id in self.passed_over if low < row_id <= high}
        return Span(bucket=self.number, safe_floor=self.safe_floor, floor=self.floor)

    def known_above_safe_floor(self) -> list[int]:
        if self.safe_floor == self.floor:
            return []
        read = self.known | self.passed_over if self.passed_over else self.known
        return [row_id for row_id in read if self.safe_floor < row_id <= self.floor]

    def count_known_above(self, floor: int) -> int:
        """Rows in memory with higher ids."""
        return sum(row_id > floor for row_id in self.known.difference(self.retired))


@dataclass(slots=True)
class Line:
    """The rows of one key, the first of them under way when `busy`, sent under `epoch`.

    `queued`: it waits in its lane, or for its part of the far side. `strikes` counts how often the
    first row was the one to find the far side, or its part, away while others got through.
    """

    key: str
    lane: "Lane"
    rows: deque[QueuedRow] = field(default_factory=deque)
    busy: bool = False
    queued: bool = False
    sent_at: float = 0.0
    epoch: int | None = None
    strikes: int = 0


@dataclass(slots=True, kw_only=True)
class Lane:
    """The lines of one receiver. `aside` holds its own floors while it is read by itself."""

    receiver: str
    circuit: Circuit
    ready: deque[Line] = field(default_factory=deque)
    in_flight: int = 0
    rows: int = 0
    payload_bytes: int = 0
    answered_at: float = 0.0
    aside: dict[int, int] | None = None

    def forget(self, row: QueuedRow) -> None:
        """A row of it leaves memory."""
        self.rows -= 1
        self.payload_bytes -= len(row.payload)


class Lines:
    """The settings' `lane_rows` and `lane_bytes` bound the rows of one receiver in memory."""

    def __init__(self, settings: DrainSettings, create_circuit: Callable[[], Circuit]) -> None:
        self.lane_rows = settings.lane_rows
        self.lane_bytes = settings.lane_bytes
        self._create_circuit = create_circuit
        self.buckets = [Bucket(number=number) for number in range(BUCKETS)]
        self.lanes: dict[str, Lane] = {}
        self.lines: dict[str, Line] = {}

    def lane(self, receiver: str) -> Lane:
        lane = self.lanes.get(receiver)
        if lane is None:
            lane = self.lanes[receiver] = Lane(receiver=receiver, circuit=self._create_circuit())
        return lane

    def admit(self, row: QueuedRow, lane: Lane) -> bool:
        """Put a row that was read in line in its lane; False when that is full. Known rows are no
        news."""
        known, row_id = self.buckets[row.bucket].known, row.id
        if row_id in known:
            return True
        if lane.rows >= self.lane_rows or lane.payload_bytes >= self.lane_bytes:
            return False
        known.add(row_id)
        lane.rows += 1
        lane.payload_bytes += len(row.payload)
        line = self.lines.get(row.key)
        if line is None:
            line = self.lines[row.key] = Line(row.key, lane)
        line.rows.append(row)
        if not line.busy and not line.queued:
            line.queued = True
            lane.ready.append(line)
        return True

    def make_ready(self, line: Line) -> None:
        line.queued = True
        line.lane.ready.append(line)

    def has_room(self, lane: Lane) -> bool:
        """Room worth a read: half of the bound."""
        return lane.rows <= self.lane_rows // 2 and lane.payload_bytes <= self.lane_bytes // 2

    def begin(self, line: Line, bucket: Bucket, now: float) -> None:
        """The first row of a line goes under way; the bucket is the row's."""
        line.busy, line.sent_at, line.epoch = True, now, bucket.epoch
        line.lane.in_flight += 1
        bucket.unsettled += 1

    def retire(self, rows: Iterable[QueuedRow]) -> None:
        """The database knows what became of the rows; the next read of their buckets cannot find
        them."""
        buckets = self.buckets
        for row in rows:
            bucket = buckets[row.bucket]
            bucket.retired.append(row.id)
            bucket.unsettled -= 1

    def end(self, row: QueuedRow) -> Line:
        """The row under way has an outcome; it is still the first of its line."""
        line = self.lines[row.key]
        line.busy = False
        line.lane.in_flight -= 1
        return line

    def is_current(self, line: Line, row: QueuedRow) -> bool:
        """Is the bucket still held under the epoch the row was sent under? If it changed hands in
        between, another worker may have sent this row and later ones."""
        bucket = self.buckets[row.bucket]
        return bucket.is_ours and bucket.epoch == line.epoch

    def pop(self, line: Line) -> None:
        """The first row is done with; the next one is ready. The row's id stays known."""
        line.lane.forget(line.rows.popleft())
        line.strikes = 0
        if line.rows:
            self.make_ready(line)
        else:
            del self.lines[line.key]

    def finish(self, rows: Iterable[QueuedRow]) -> set[str]:
        """`end` and `pop` for many rows that have arrived; the receivers they arrived at."""
        lines, receivers = self.lines, set()
        for row in rows:
            line = lines[row.key]
            lane = line.lane
            lane.in_flight -= 1
            lane.rows -= 1
            lane.payload_bytes -= len(row.payload)
            receivers.add(row.receiver)
            waiting = line.rows
            waiting.popleft()
            if waiting:
                line.busy = False
                line.strikes = 0
                line.queued = True
                lane.ready.append(line)
            else:
                del lines[row.key]
        return receivers

    def drop(self, line: Line, *, again: bool) -> None:
        """Forget a line's rows. With `again` they are read again by whoever has the bucket now;
        without, they wait with their parked key, or for their part of the far side."""
        first = line.rows[0]
        bucket = self.buckets[first.bucket]
        if again:
            self.read_again(first.bucket, line.key, first.id)
        for row in line.rows:
            bucket.known.discard(row.id)
            line.lane.forget(row)
        line.rows.clear()
        line.queued = False
        del self.lines[line.key]

    def shorten(self, line: Line) -> list[QueuedRow]:
        """Forget all rows of a line but the first; returns those."""
        first = line.rows.popleft()
        forgotten, line.rows = list(line.rows), deque([first])
        for row in forgotten:
            self.buckets[first.bucket].known.discard(row.id)
            line.lane.forget(row)
        return forgotten

    def read_again(self, bucket: int, key: str, row_id: int) -> None:
        """Read the key again from a row on, by whichever floor its lane is read."""
        self.go_back(self.lanes.get(key.rpartition("/")[0]), bucket, row_id - 1)

    def go_back(self, lane: Lane | None, bucket: int, floor: int) -> None:
        """The same, of all rows of a lane above `floor`."""
        self.buckets[bucket].go_back(floor)
        if lane is not None and lane.aside is not None:
            lane.aside[bucket] = min(lane.aside.get(bucket, 0), floor)

    def drop_bucket(self, number: int) -> None:
        """Forget a bucket's rows, all but those under way."""
        for line in [line for line in self.lines.values() if line.rows[0].bucket == number]:
            if line.busy:
                self.shorten(line)
            else:
                self.drop(line, again=True)

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self.lanes.values())

    @property
    def total_rows(self) -> int:
        return sum(lane.rows for lane in self.lanes.values())
