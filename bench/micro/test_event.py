"""An event on its way: bucket, envelope and headers in relayd, the envelope read in notifyd."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from servicedesk.bucket import bucket_of
from servicedesk.correlation import continue_trace, correlation_headers
from servicedesk.event import Event, envelope, kafka_headers, parse_envelope, rfc3339
from servicedesk.queue.row import queue_key

TICKET = UUID("019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10")
MOMENT = datetime(2026, 1, 15, 8, 0, 0, 123456, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PAYLOAD = (
    '{"id":"019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10","title":"Принтер на третьем этаже не печатает",'
    '"description":"Горит красная лампа. Бумага есть, перезагружали дважды","status":"new",'
    '"priority":"high","requester":"anna.petrova@example.com","assignee":null,"version":1,'
    '"created_at":"2026-01-15T08:00:00.123000Z","updated_at":"2026-01-15T08:00:00.123000Z",'
    '"closed_at":null}'
)


@pytest.fixture(scope="module")
def event() -> Event:
    return Event(
        event_id=TICKET,
        event_type="ticket.created",
        occurred_at=MOMENT,
        aggregate_id=TICKET,
        sequence=1,
        request_id="helpdesk-7f3a",
        traceparent=TRACEPARENT,
        payload=PAYLOAD,
    )


def test_bucket_of_a_ticket(benchmark: BenchmarkFixture) -> None:
    assert 0 <= benchmark(lambda: bucket_of(queue_key(TICKET))) < 64


def test_time_in_rfc_3339(benchmark: BenchmarkFixture) -> None:
    assert benchmark(rfc3339, MOMENT) == "2026-01-15T08:00:00.123456Z"


def test_trace_continued(benchmark: BenchmarkFixture) -> None:
    assert benchmark(continue_trace, TRACEPARENT, bytes).startswith("00-4bf92f35")


def test_headers_of_an_outbox_row(benchmark: BenchmarkFixture) -> None:
    assert benchmark(correlation_headers, "helpdesk-7f3a", TRACEPARENT)


def test_envelope_written(benchmark: BenchmarkFixture, event: Event) -> None:
    assert benchmark(envelope, event)


def test_kafka_headers_written(benchmark: BenchmarkFixture, event: Event) -> None:
    assert benchmark(kafka_headers, event)


def test_envelope_read(benchmark: BenchmarkFixture, event: Event) -> None:
    assert benchmark(parse_envelope, envelope(event), TRACEPARENT) == event
