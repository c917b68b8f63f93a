"""What the queue hands out: rows, keys that are parked, and the outcomes of sending."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


class QueuedRow(NamedTuple):
    """One row of `outbox` or `delivery`. `headers` and `payload` are JSON, the latter in UTF-8,
    as it is passed on.

    `receiver` is empty in the outbox, whose only receiver is the broker. Rows of one `key` are
    sent one after another in order of their ids; rows of different keys side by side. A tuple with
    ids as texts, because a relayd makes 50,000 a second and sends them as texts; the fields are in
    the order of the columns of `statements.ROW`.
    """

    bucket: int
    id: int
    receiver: str
    sequence: int
    event_id: str
    event_type: str
    headers: str
    payload: bytes
    created_at: datetime
    key: str

    @property
    def aggregate_id(self) -> UUID:
        """The ticket, which the key ends with. Raises ValueError for a key that is none of ours."""
        return UUID(self.key.rpartition("/")[2])


class Parked(NamedTuple):
    """A key that waits for `wait_seconds` more, 0 or less when it is due.

    `row_created_at` is None when the row it waits for is gone. A tuple, because all parked keys are
    read once a second; the fields are in the order of the columns of `QueueStore.PARKED`.
    """

    bucket: int
    key: str
    first_id: int
    attempts: int
    wait_seconds: float
    first_failed_at: datetime
    error: str
    row_created_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where to read a bucket: what is new above `floor`, and what came late above `safe_floor`."""

    bucket: int
    safe_floor: int
    floor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Most:
    """How much to read of each bucket: rows, and bytes of payload, which the last row may pass."""

    rows: int
    payload_bytes: int

    def filled(self, rows: Iterable[QueuedRow]) -> set[int]:
        """The buckets that have given it, and may have more."""
        counts: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        for row in rows:
            counts[row.bucket] += 1
            sizes[row.bucket] += len(row.payload)
        return {
            bucket
            for bucket, count in counts.items()
            if count >= self.rows or sizes[bucket] >= self.payload_bytes
        }


def queue_key(aggregate_id: UUID | str, receiver: str = "") -> str:
    """The key that order is kept for: the ticket, in deliveries the receiver and the ticket. A
    ticket's text is in lower case."""
    return f"{receiver}/{aggregate_id}" if receiver else str(aggregate_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """The far side has the row for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """This row was refused and another may well pass: the key is parked, the attempt counts.

    `error` is "Class: message" for the operator, without secrets. `retry_after_seconds` is the
    receiver's own wish and only ever lengthens the wait.
    """

    error: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """The far side is away, or the part of it that the row goes to: no attempt counts.

    `is_everywhere`: the rows for any part would meet the same.
    """

    error: str
    is_everywhere: bool = False


Outcome = Acknowledged | Rejected | Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a row was given up, as its dead letter tells it."""

    error: str
    attempts: int
    first_failed_at: datetime
