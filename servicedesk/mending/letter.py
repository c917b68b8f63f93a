"""A dead letter read back from its topic, and what became of it.

The headers that tell of the death stand behind those that the record had before, which anybody may
have written: only what follows the last `dlq_original_topic` counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from servicedesk.event import CANONICAL_UUID, read_moment
from servicedesk.queue.row import QueuedRow

FIRST_HEADER = "dlq_original_topic"
TRACEPARENT = "traceparent"
# Why a letter cannot become a row by itself.
VALUE_LEFT_OUT = "whose value was too large for a letter, and whose dead row is gone"
CONTRADICTS = "whose value is another event than their headers tell"

Headers = Sequence[tuple[str, bytes | str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRecord:
    """A record of the dead letter topic. `told` are the headers that tell of the death."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    told: Mapping[str, str]
    traceparent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One death of one row, as its letter tells it.

    `event_id` is None where it was no event; `row` is None where the letter does not hold it, and
    `obstacle` then says why. A row's `id` is not given yet and 0.
    """

    record: FoundRecord
    event_id: UUID | None
    key: str | None
    error: str
    first_failed_at: datetime | None
    failed_at: datetime
    row: QueuedRow | None
    obstacle: str = ""


# A daemon's own letters; None for what another daemon wrote.
ReadLetter = Callable[[FoundRecord], Letter | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterTopic:
    """Where a daemon's dead letters are, and how they are read."""

    brokers: str
    client_id: str
    topic: str
    read: ReadLetter


def found_record(
    *,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> FoundRecord:
    texts = [(name, letter_text(value)) for name, value in headers]
    starts = [place for place, (name, _) in enumerate(texts) if name == FIRST_HEADER]
    traceparents = [text for name, text in texts if name == TRACEPARENT]
    return FoundRecord(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms,
        key=key,
        value=value,
        told=dict(texts[starts[-1] :]) if starts else {},
        traceparent=traceparents[-1] if traceparents else None,
    )


def letter_text(value: bytes | str | None) -> str:
    """As PostgreSQL can be asked for it, which has no NUL: anybody may write to the topic."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value or ""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def letter(
    record: FoundRecord,
    *,
    event_id: UUID | None,
    key: str | None,
    row: QueuedRow | None,
    obstacle: str = "",
) -> Letter:
    """With what every letter tells in the same way."""
    told = record.told
    message = told.get("dlq_error_message")
    error = told.get("dlq_error_class", "") + (f": {message}" if message else "")
    return Letter(
        record=record,
        event_id=event_id,
        key=key,
        error=error,
        first_failed_at=told_moment(told.get("dlq_first_failed_at", "")),
        failed_at=datetime.fromtimestamp(max(0, record.timestamp_ms) / 1000, UTC),
        row=row,
        obstacle=obstacle,
    )


def told_uuid(text: str) -> UUID | None:
    return UUID(text) if CANONICAL_UUID.fullmatch(text) else None


def told_moment(text: str) -> datetime | None:
    try:
        return read_moment(text)
    except ValueError:
        return None
