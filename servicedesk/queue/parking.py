"""The parked keys of this worker's buckets: which keys wait, until when, and how often they failed.

Memory mirrors `…_parked`; the table is what survives, and what an operator changes.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf

from servicedesk.binary import Texts
from servicedesk.queue.row import Parked, QueuedRow
from servicedesk.queue.waiting import Waiting

# Until a key is tried again whose part of the far side is away; and until one is forgotten that was
# tried and has no row any more.
POSTPONED_SECONDS = 10.0
# Two readings of one time in the table differ by less, as a rule.
SAME_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class ParkedKey:
    """`due_at` is on the monotonic clock; `waiting` ends when the key is tried again.

    `saved_at` is when the table got the latest failure, None until then. `row_created_at` feeds
    the lag. `times_aside` counts how often the key was set aside without an attempt counted.
    `is_postponed`: it waits because its part of the far side is away.
    """

    bucket: int
    key: str
    first_id: int
    attempts: int
    due_at: float
    error: str
    first_failed_at: datetime
    row_created_at: datetime | None
    waiting: bool = True
    saved_at: float | None = None
    times_aside: int = 0
    is_postponed: bool = False


class Parking:
    """`now` is the monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._keys: dict[str, ParkedKey] = {}
        self._of_bucket: dict[int, dict[str, ParkedKey]] = {}
        # Each key is in one of these.
        self._waiting = Waiting()
        self._tried: dict[str, ParkedKey] = {}
        # Keys that were freed, when the table learned it, and up to which row: older readings of
        # it are no news.
        self._freed: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def waiting_keys(self) -> Texts:
        return self._waiting.keys()

    def is_waiting(self, key: str) -> bool:
        return key in self._waiting

    def _add(self, parked: ParkedKey) -> None:
        key = parked.key
        self._keys[key] = self._of_bucket.setdefault(parked.bucket, {})[key] = parked
        self._tried.pop(key, None)
        self._waiting.add(key)

    def _remove(self, parked: ParkedKey) -> None:
        key = parked.key
        del self._keys[key], self._of_bucket[parked.bucket][key]
        self._tried.pop(key, None)
        self._waiting.discard(key)

    def wait(self, parked: ParkedKey) -> None:
        """The key that was to be tried waits again, until it is due."""
        parked.waiting = True
        self._tried.pop(parked.key, None)
        self._waiting.add(parked.key)
        self._waiting.schedule(parked.key, parked.due_at)

    def failures(self, row: QueuedRow) -> ParkedKey | None:
        """The record of this very row's failures."""
        parked = self._keys.get(row.key)
        return parked if parked is not None and parked.first_id == row.id else None

    def fail(
        self, row: QueuedRow, *, error: str, attempts: int, wait_seconds: float, failed_at: datetime
    ) -> ParkedKey:
        """The row's key waits; to be saved."""
        former = self.failures(row)
        parked = ParkedKey(
            bucket=row.bucket,
            key=row.key,
            first_id=row.id,
            attempts=attempts,
            due_at=self._now() + wait_seconds,
            error=error,
            first_failed_at=former.first_failed_at if former else failed_at,
            row_created_at=row.created_at,
        )
        self._add(parked)
        return parked

    def set_aside(
        self, row: QueuedRow, *, error: str, wait_seconds: float, failed_at: datetime
    ) -> None:
        """The row's key waits without an attempt counted. Only memory knows: the table, which
        keeps attempts, has nothing to learn, and nothing that it tells ends the wait."""
        former = self.failures(row)
        attempts = former.attempts if former else 0
        times = self.times_aside(row) + 1
        parked = self.fail(
            row, error=error, attempts=attempts, wait_seconds=wait_seconds, failed_at=failed_at
        )
        parked.saved_at, parked.times_aside = inf, times
        self._waiting.schedule(row.key, parked.due_at)

    def times_aside(self, row: QueuedRow) -> int:
        """How often this very row was set aside."""
        former = self.failures(row)
        return former.times_aside if former else 0

    def postpone(self, key: str) -> bool:
        """The key's part of the far side is away: a parked key that was to be tried waits again,
        and what becomes of it in the table is seen. False when it is not parked."""
        parked = self._keys.get(key)
        if parked is not None and not parked.waiting:
            parked.due_at, parked.is_postponed = self._now() + POSTPONED_SECONDS, True
            self.wait(parked)
        return parked is not None

    def hasten(self, is_of_part: Callable[[str], bool]) -> None:
        """The part is back: its keys that were postponed are due."""
        for parked in self._keys.values():
            if parked.is_postponed and is_of_part(parked.key):
                parked.due_at = self._now()
                self._waiting.schedule(parked.key, parked.due_at)

    def forget_tried(self, in_memory: Container[str]) -> None:
        """Forget keys that only memory knows, that were due for a while, and that no row was found
        of: it was skipped."""
        longest_ago = self._now() - POSTPONED_SECONDS
        for parked in [parked for parked in self._tried.values() if parked.saved_at == inf]:
            if parked.due_at <= longest_ago and parked.key not in in_memory:
                self._remove(parked)

    def save(self, parked: ParkedKey) -> None:
        """The table has it now. Meanwhile the key may have been freed, or parked anew."""
        parked.saved_at = self._now()
        if self._keys.get(parked.key) is parked:
            self._waiting.schedule(parked.key, parked.due_at)

    def free(self, key: str, row_id: int) -> ParkedKey | None:
        """The row is done with, and the key no longer parked, unless it is for a later row; what it
        was when it was, and the table has to learn it."""
        parked = self._pop_up_to(key, row_id)
        if parked is not None:
            self._freed[key] = (inf, row_id)
        return parked

    def freed(self, key: str, row_id: int) -> None:
        """The table has learned it. Meanwhile the key may have been parked anew, which stands, and
        been freed again, which the table has to learn still."""
        _, newest_id = self._freed.get(key, (inf, row_id))
        if newest_id <= row_id:
            self._freed[key] = (self._now(), row_id)

    def forget(self, key: str, row_id: int) -> ParkedKey | None:
        """The table has the key no longer, unless it is for a later row; what it was."""
        parked = self._pop_up_to(key, row_id)
        self.freed(key, row_id)
        return parked

    def _pop_up_to(self, key: str, row_id: int) -> ParkedKey | None:
        parked = self._keys.get(key)
        if parked is None or parked.first_id > row_id:
            return None
        self._remove(parked)
        return parked

    def _is_old_news(self, row: Parked, asked_at: float) -> bool:
        freed_at, up_to_id = self._freed.get(row.key, (-inf, 0))
        return freed_at >= asked_at and row.first_id <= up_to_id

    def forget_bucket(self, bucket: int) -> None:
        for parked in list(self._of_bucket.get(bucket, {}).values()):
            self._remove(parked)

    def take_due(self) -> list[ParkedKey]:
        """Keys whose wait is over, but for those to be saved; they no longer wait, and are read
        again."""
        due = [self._keys[key] for key in self._waiting.take_due(self._now())]
        for parked in due:
            parked.waiting = parked.is_postponed = False
            self._tried[parked.key] = parked
        return due

    def refresh(self, bucket: int, rows: Sequence[Parked], asked_at: float) -> list[ParkedKey]:
        """Take over what the table said of one bucket when it was asked; returns the keys that an
        operator freed. A key that is being tried, or changed since, is left as it is."""
        found = {row.key: row for row in rows}
        freed = []
        for parked in list(self._of_bucket.get(bucket, {}).values()):
            if parked.key not in found and self._is_settled(parked, asked_at):
                self._remove(parked)
                freed.append(parked)
        for row in found.values():
            known = self._keys.get(row.key)
            if known is None and not self._is_old_news(row, asked_at):
                parked = self._from_table(row)
                self._add(parked)
                self._waiting.schedule(row.key, parked.due_at)
            elif known is not None and self._is_settled(known, asked_at):
                self._move(known, self._due_at(row))
        return freed

    def _move(self, parked: ParkedKey, due_at: float) -> None:
        # What the clocks and the time of the answer make of an unchanged time is no news.
        if abs(due_at - parked.due_at) > SAME_SECONDS:
            parked.due_at = due_at
            self._waiting.schedule(parked.key, due_at)

    def forget_freed(self, asked_at: float) -> None:
        """All that the table is asked from now on, it is asked after this."""
        self._freed = {key: freed for key, freed in self._freed.items() if freed[0] >= asked_at}

    def abandoned(self, rows: Sequence[Parked]) -> list[tuple[Parked, int]]:
        """Parked rows that were tried again and are gone, each with the last row that its key is
        known to have waited for: nothing is left to wait for."""
        return [
            (row, max(row.first_id, known.first_id))
            for row in rows
            if row.row_created_at is None and (known := self._tried.get(row.key)) is not None
        ]

    @staticmethod
    def _is_settled(parked: ParkedKey, asked_at: float) -> bool:
        return parked.waiting and parked.saved_at is not None and parked.saved_at < asked_at

    def _due_at(self, row: Parked) -> float:
        # A row that is gone was skipped or delivered: nothing to wait for.
        return self._now() + (row.wait_seconds if row.row_created_at else 0.0)

    def _from_table(self, row: Parked) -> ParkedKey:
        return ParkedKey(
            bucket=row.bucket,
            key=row.key,
            first_id=row.first_id,
            attempts=row.attempts,
            due_at=self._due_at(row),
            error=row.error,
            first_failed_at=row.first_failed_at,
            row_created_at=row.row_created_at,
            saved_at=-inf,
        )

    def oldest_row(self) -> datetime | None:
        times = [p.row_created_at for p in self._keys.values() if p.row_created_at is not None]
        return min(times, default=None)
