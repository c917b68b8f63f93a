"""The event as it travels: the JSON envelope, and its Kafka headers as CloudEvents 1.0 binary mode.

Source of the headers: CloudEvents Kafka Protocol Binding 1.0.2, 3.2 (binary content mode).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from servicedesk.correlation import sane_request_id

AGGREGATE = "ticket"
SOURCE = "/servicedesk-lite/tickets"
CONTENT_TYPE = "application/json"
# RFC 9562, 4: UUID() alone would also take braces, underscores and no dashes at all.
CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# What a setting may name. Bounded, because types become labels of metrics and headers of letters.
EVENT_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
# RFC 3339, 5.6; digits beyond the microseconds are cut off.
RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


class MalformedEventError(Exception):
    """A record is not an event envelope; the text says which member is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one ticket. `payload` is the JSON text of the ticket as the API shows it."""

    event_id: UUID
    event_type: str
    occurred_at: datetime
    aggregate_id: UUID
    sequence: int
    request_id: str | None
    traceparent: str | None
    payload: str


class Facts(NamedTuple):
    """What is needed of an event to pass its envelope on as it came. The ids are texts in lower
    case, because a notifyd reads 30,000 a second. A malformed request id is left out."""

    event_id: str
    event_type: str
    aggregate_id: str
    sequence: int
    request_id: str | None


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds and a Z, the one way times are written in JSON here."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    # Several times as fast as isoformat, but without the microseconds where they are none.
    found = orjson.dumps(moment, option=orjson.OPT_UTC_Z)[1:-1].decode()
    return found if moment.microsecond else f"{found[:-1]}.000000Z"


def envelope(event: Event) -> bytes:
    """The Kafka value: the envelope as JSON in UTF-8, the payload inserted as it stands."""
    body: dict[str, Any] = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "occurred_at": rfc3339(event.occurred_at),
        "aggregate": AGGREGATE,
        "aggregate_id": event.aggregate_id,
        "sequence": event.sequence,
    }
    if event.request_id is not None:
        body["request_id"] = event.request_id
    body["payload"] = orjson.Fragment(event.payload)
    return orjson.dumps(body)


def kafka_headers(event: Event) -> list[tuple[str, bytes]]:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(event.event_id).encode()),
        ("ce_type", event.event_type.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_time", rfc3339(event.occurred_at).encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if event.traceparent is not None:
        headers.append(("traceparent", event.traceparent.encode()))
    return headers


def parse_envelope(value: bytes | None, traceparent: str | None) -> Event:
    """Read a Kafka value back. Unknown members are ignored, so producers may add some.

    Raises MalformedEventError.
    """
    body = _body(value)
    event_id, event_type, aggregate_id, sequence, request_id = _facts(body)
    return Event(
        event_id=UUID(event_id),
        event_type=event_type,
        occurred_at=_moment(body),
        aggregate_id=UUID(aggregate_id),
        sequence=sequence,
        request_id=request_id,
        traceparent=traceparent,
        payload=_payload(body),
    )


def check_envelope(value: bytes | None) -> Facts:
    """As `parse_envelope`, without the work of writing the payload again."""
    body = _body(value)
    facts = _facts(body)
    _moment(body)
    if not isinstance(body.get("payload"), dict):
        raise MalformedEventError("payload is not an object")
    return facts


def _body(value: bytes | None) -> dict[str, Any]:
    try:
        body = orjson.loads(value or b"")
    except orjson.JSONDecodeError as error:
        raise MalformedEventError(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise MalformedEventError("not a JSON object")
    if body.get("aggregate") != AGGREGATE:
        raise MalformedEventError(f"aggregate is not {AGGREGATE}")
    return body


def _facts(body: dict[str, Any]) -> Facts:
    request_id = body.get("request_id")
    return Facts(
        _uuid(body, "event_id"),
        _event_type(body),
        _uuid(body, "aggregate_id"),
        _sequence(body),
        sane_request_id(request_id) if isinstance(request_id, str) else None,
    )


def _event_type(body: dict[str, Any]) -> str:
    value = _text(body, "event_type")
    if not EVENT_TYPE.fullmatch(value):
        raise MalformedEventError("event_type is not 1 to 100 letters, digits, dots, _ and -")
    return value


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value or "\x00" in value:
        raise MalformedEventError(f"{name} is not a text")
    return value


def _payload(body: dict[str, Any]) -> str:
    payload = body.get("payload")
    if not isinstance(payload, dict):
        raise MalformedEventError("payload is not an object")
    try:
        return orjson.dumps(payload).decode()
    except TypeError as error:
        # orjson reads deeper nesting than it writes.
        raise MalformedEventError(f"payload cannot be written again: {error}") from error


def _uuid(body: dict[str, Any], name: str) -> str:
    value = _text(body, name)
    if not CANONICAL_UUID.fullmatch(value):
        raise MalformedEventError(f"{name} is not a UUID")
    return value.lower()


def _moment(body: dict[str, Any]) -> datetime:
    try:
        return read_moment(_text(body, "occurred_at"))
    except ValueError as error:
        raise MalformedEventError(f"occurred_at is {error}") from error


def read_moment(text: str) -> datetime:
    """A time in RFC 3339, in UTC. Raises ValueError, whose text tells what it is instead."""
    if not RFC_3339.fullmatch(text):
        raise ValueError("not an RFC 3339 time with an offset")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        # OverflowError: the offset leads out of the years 1 to 9999.
        raise ValueError("not a moment in time") from error


def _sequence(body: dict[str, Any]) -> int:
    value = body.get("sequence")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**63:
        raise MalformedEventError("sequence is not a whole number from 1")
    return value
