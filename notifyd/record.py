"""What comes out of Kafka, and what the first stage makes of it."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import orjson

from servicedesk.correlation import sane_request_id, sane_traceparent
from servicedesk.event import check_envelope

TRACEPARENT_HEADER = "traceparent"


class Record(NamedTuple):
    """One Kafka record. `timestamp_ms` is milliseconds since 1970, -1 when the broker has none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Arrival(NamedTuple):
    """An event that can be read, with where it was found.

    `headers` is the JSON text of a delivery's headers, `envelope` the record's value as it came.
    """

    record: Record
    event_id: UUID
    event_type: str
    aggregate_id: UUID
    sequence: int
    headers: str
    envelope: str


def traceparent_of(record: Record) -> str | None:
    """The record's W3C trace context, None when it is missing or malformed."""
    for name, value in record.headers:
        if name == TRACEPARENT_HEADER and value is not None:
            return sane_traceparent(value.decode("ascii", "replace"))
    return None


def read_arrival(record: Record) -> Arrival:
    """Raises MalformedEventError when the value is not an event envelope."""
    traceparent = traceparent_of(record)
    event = check_envelope(record.value)
    request_id = sane_request_id(event.request_id) if event.request_id is not None else None
    headers = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "traceparent": traceparent,
        "request_id": request_id,
    }
    return Arrival(
        record=record,
        event_id=event.event_id,
        event_type=event.event_type,
        aggregate_id=event.aggregate_id,
        sequence=event.sequence,
        headers=orjson.dumps(headers).decode(),
        envelope=(record.value or b"").decode(),
    )
