"""relayd's own way to a Kafka record gives what servicedesk.event gives."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import orjson
import pytest

from relayd.record import record
from servicedesk.event import Event, envelope, kafka_headers, rfc3339
from servicedesk.queue.row import QueuedRow
from tests.relayd.rows import REQUEST_ID, TRACEPARENT, outbox_row


def as_event(row: QueuedRow) -> Event:
    correlation = orjson.loads(row.headers)
    return Event(
        event_id=UUID(row.event_id),
        event_type=row.event_type,
        occurred_at=row.created_at,
        aggregate_id=row.aggregate_id,
        sequence=row.sequence,
        request_id=correlation.get("request_id"),
        traceparent=correlation.get("traceparent"),
        payload=row.payload.decode(),
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"request_id": REQUEST_ID, "traceparent": TRACEPARENT},
        {"request_id": 'says "hi" \\ привет'},
        {"traceparent": TRACEPARENT},
        {},
    ],
)
@pytest.mark.parametrize("event_type", ["ticket.created", 'odd "type" 🔥'])
def test_record_is_the_envelope_and_the_headers_of_the_event(
    headers: dict[str, str], event_type: str
) -> None:
    row = outbox_row(headers=orjson.dumps(headers).decode())._replace(event_type=event_type)
    value, found = record(row)
    event = as_event(row)
    assert value == envelope(event)
    as_bytes = [(name, v.encode() if isinstance(v, str) else v) for name, v in found]
    assert as_bytes == kafka_headers(event)


def test_record_of_headers_that_are_no_object_is_refused() -> None:
    with pytest.raises((AttributeError, ValueError)):
        record(outbox_row(headers="[]"))


@pytest.mark.parametrize("value", [5, True, ["a"], {"a": "b"}])
def test_record_of_a_traceparent_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="traceparent"):
        record(outbox_row(headers=orjson.dumps({"traceparent": value}).decode()))


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=timezone(timedelta(hours=3))),
        datetime(1, 1, 1, tzinfo=UTC),
    ],
)
def test_times_are_written_with_all_their_microseconds_in_utc(moment: datetime) -> None:
    written = moment.astimezone(UTC).isoformat(timespec="microseconds")
    assert rfc3339(moment) == written.replace("+00:00", "Z")
