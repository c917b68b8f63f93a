"""The envelope and its headers: what is written reads back, what is malformed names its member."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from servicedesk.event import (
    Event,
    MalformedEventError,
    envelope,
    kafka_headers,
    parse_envelope,
    rfc3339,
)

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PAYLOAD: dict[str, Any] = {"title": "Принтер 🖨️ \u202eне печатает", "version": 2}
EVENT = Event(
    event_id=UUID("019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"),
    event_type="ticket.created",
    occurred_at=datetime(2026, 1, 15, 8, 0, 0, 123456, tzinfo=UTC),
    aggregate_id=UUID("019a8f6e-0000-7d11-9c1e-5f0a4b7f2d10"),
    sequence=2,
    request_id="helpdesk-7f3a",
    traceparent=TRACEPARENT,
    payload=orjson.dumps(PAYLOAD).decode(),
)


def changed(**members: object) -> bytes:
    body = orjson.loads(envelope(EVENT)) | members
    return orjson.dumps({name: value for name, value in body.items() if value is not ...})


def test_envelope_reads_back_as_it_was_written() -> None:
    assert parse_envelope(envelope(EVENT), TRACEPARENT) == EVENT


def test_envelope_has_the_members_of_the_contract_and_the_payload_as_an_object() -> None:
    assert orjson.loads(envelope(EVENT)) == {
        "event_id": "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10",
        "event_type": "ticket.created",
        "occurred_at": "2026-01-15T08:00:00.123456Z",
        "aggregate": "ticket",
        "aggregate_id": "019a8f6e-0000-7d11-9c1e-5f0a4b7f2d10",
        "sequence": 2,
        "request_id": "helpdesk-7f3a",
        "payload": PAYLOAD,
    }


def test_envelope_is_utf_8_not_escapes() -> None:
    assert "Принтер 🖨️".encode() in envelope(EVENT)


def test_absent_request_id_and_trace_stay_absent() -> None:
    event = parse_envelope(changed(request_id=...), None)
    assert event.request_id is None
    assert event.traceparent is None
    assert b"request_id" not in envelope(event)
    assert "traceparent" not in dict(kafka_headers(event))


@pytest.mark.parametrize("event_type", ["a", "t" * 100, "Ticket.status-changed_2"])
def test_event_types_that_a_setting_may_name_are_read(event_type: str) -> None:
    assert parse_envelope(changed(event_type=event_type), None).event_type == event_type


@pytest.mark.parametrize("request_id", ["r" * 129, "", "two words", "a\x00b", "я", 7, ["r"]])
def test_request_id_that_is_none_is_left_out_and_costs_no_event(request_id: object) -> None:
    """As long as it likes, it would go into tables, log lines and headers."""
    assert parse_envelope(changed(request_id=request_id), None).request_id is None


def test_unknown_members_are_ignored() -> None:
    assert parse_envelope(changed(tenant="acme"), TRACEPARENT) == EVENT


def test_cloudevents_package_parses_the_record_in_binary_mode() -> None:
    headers = dict(kafka_headers(EVENT))
    assert len(headers) == len(kafka_headers(EVENT))
    record = KafkaMessage(headers=headers, key=str(EVENT.aggregate_id), value=envelope(EVENT))
    parsed = from_binary(record, JSONFormat())
    assert parsed.get_specversion() == "1.0"
    assert parsed.get_id() == str(EVENT.event_id)
    assert parsed.get_type() == "ticket.created"
    assert parsed.get_source() == "/servicedesk-lite/tickets"
    assert parsed.get_time() == EVENT.occurred_at
    assert parsed.get_datacontenttype() == "application/json"
    assert parsed.get_data() == orjson.loads(envelope(EVENT))
    assert headers["traceparent"] == TRACEPARENT.encode()


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 15, 8, 0, tzinfo=UTC), "2026-01-15T08:00:00.000000Z"),
        (
            datetime(2026, 1, 15, 1, 30, tzinfo=timezone(timedelta(hours=3, minutes=30))),
            "2026-01-14T22:00:00.000000Z",
        ),
        (datetime(5, 1, 2, tzinfo=UTC), "0005-01-02T00:00:00.000000Z"),
    ],
)
def test_times_are_written_in_utc_with_microseconds(moment: datetime, text: str) -> None:
    assert rfc3339(moment) == text


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-01-15T08:00:00Z", datetime(2026, 1, 15, 8, tzinfo=UTC)),
        ("2026-01-15t11:00:00.5+03:00", datetime(2026, 1, 15, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-15T08:00:00.123456789z", datetime(2026, 1, 15, 8, 0, 0, 123_456, tzinfo=UTC)),
    ],
)
def test_every_rfc_3339_time_is_read(written: str, read: datetime) -> None:
    assert parse_envelope(changed(occurred_at=written), None).occurred_at == read


NOT_EVENTS: list[tuple[bytes | None, str]] = [
    (None, "not JSON"),
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (rb'{"event_id":"\ud800"}', "not JSON"),
    (b"[]", "not a JSON object"),
    (b"null", "not a JSON object"),
    (changed(event_id=...), "event_id"),
    (changed(event_id=7), "event_id"),
    (changed(event_id="019a8f6e"), "event_id"),
    (changed(event_id="{019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10}"), "event_id"),
    (changed(event_id="0_9a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"), "event_id"),
    (changed(event_type=""), "event_type"),
    (changed(event_type="ticket\x00created"), "event_type"),
    (changed(event_type="ticket created"), "event_type"),
    (changed(event_type="ticket.создан"), "event_type"),
    (changed(event_type="ticket.created\n"), "event_type"),
    (changed(event_type="t" * 101), "event_type"),
    (changed(event_type=["ticket.created"]), "event_type"),
    (changed(occurred_at="yesterday"), "occurred_at"),
    (changed(occurred_at="2026-01-15"), "occurred_at"),
    (changed(occurred_at="2026-01-15T08:00:00"), "occurred_at"),
    (changed(occurred_at="2026-W03-4T08:00:00Z"), "occurred_at"),
    (changed(occurred_at="2026-02-30T08:00:00Z"), "occurred_at"),
    (changed(occurred_at="0001-01-01T00:00:00+23:59"), "occurred_at"),
    (changed(occurred_at=1_700_000_000), "occurred_at"),
    (changed(aggregate="invoice"), "aggregate"),
    (changed(aggregate=...), "aggregate"),
    (changed(aggregate_id="none"), "aggregate_id"),
    (changed(sequence=...), "sequence"),
    (changed(sequence=0), "sequence"),
    (changed(sequence=True), "sequence"),
    (changed(sequence=1.0), "sequence"),
    (changed(sequence="1"), "sequence"),
    (changed(sequence=2**63), "sequence"),
    (changed(payload=...), "payload"),
    (changed(payload="{}"), "payload"),
    (envelope(EVENT)[:-1].replace(b'"version":2', b'"deep":' + b"[" * 400 + b"]" * 400) + b"}",
     "payload"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "member"), NOT_EVENTS)
def test_malformed_record_names_the_member_that_is_wrong(value: bytes | None, member: str) -> None:
    with pytest.raises(MalformedEventError, match=rf"^{member}"):
        parse_envelope(value, None)
