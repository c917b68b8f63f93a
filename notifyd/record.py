"""What comes out of Kafka, and what the first stage makes of it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson
from confluent_kafka import Message

from servicedesk.correlation import sane_traceparent
from servicedesk.event import MalformedEventError, check_envelope
from servicedesk.headers import UnreadableHeadersError, read_headers

TRACEPARENT_HEADER = "traceparent"


class Rest(NamedTuple):
    """Of a record, what few are asked for. `timestamp_ms` is milliseconds since 1970, -1 when the
    broker has none. `fault` tells why the headers cannot be read, and are none."""

    key: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes | None]]
    fault: str = ""


class MessageRest:
    """The rest of a message, read once, however often it is asked for: see `read_headers`."""

    __slots__ = ("_found", "_message")

    def __init__(self, message: Message) -> None:
        self._message = message
        self._found: Rest | None = None

    def __call__(self) -> Rest:
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> Rest:
        key, timestamp_ms = self._message.key(), self._message.timestamp()[1]
        try:
            return Rest(key, timestamp_ms, read_headers(self._message))
        except UnreadableHeadersError as error:
            return Rest(key, timestamp_ms, [], str(error))


class Record(NamedTuple):
    """One Kafka record; `rest` reads the rest of it. `assignment` is the one of its partition that
    it came in, as `Partitions` numbers them."""

    topic: str
    partition: int
    offset: int
    value: bytes | None
    rest: Callable[[], Rest]
    assignment: int = 0


class Arrival(NamedTuple):
    """An event that can be read, with where it was found. `event_id` is 16 bytes, `aggregate_id` a
    UUID's text in lower case."""

    record: Record
    event_id: bytes
    event_type: str
    aggregate_id: str
    sequence: int
    request_id: str | None


def read_arrival(record: Record) -> Arrival:
    """Raises MalformedEventError when the value is not an event envelope."""
    event_id, event_type, aggregate_id, sequence, request_id = check_envelope(record.value)
    return Arrival(
        record,
        bytes.fromhex(event_id.replace("-", "")),
        event_type,
        aggregate_id,
        sequence,
        request_id,
    )


def check_headers(record: Record) -> None:
    """Raises MalformedEventError when they cannot be read."""
    if fault := record.rest().fault:
        raise MalformedEventError(fault)


def delivery_headers(arrival: Arrival) -> bytes:
    """The JSON of the headers of the event's deliveries. A malformed trace context is left out and
    costs no event."""
    topic, partition, offset, _, rest, _ = arrival.record
    _, timestamp_ms, headers, _ = rest()
    return orjson.dumps(
        {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": timestamp_ms,
            "traceparent": _traceparent(headers),
            "request_id": arrival.request_id,
        }
    )


def _traceparent(headers: Sequence[tuple[str, bytes | None]]) -> str | None:
    for name, value in headers:
        if name == TRACEPARENT_HEADER and value is not None:
            return sane_traceparent(value.decode("ascii", "replace"))
    return None
