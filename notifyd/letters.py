"""Dead letters read back, so that a delivery can be queued again as it was; see dead_letters.py."""

import orjson

from servicedesk.bucket import bucket_of
from servicedesk.correlation import sane_traceparent
from servicedesk.event import Event, MalformedEventError, parse_envelope
from servicedesk.mending.letter import (
    CONTRADICTS,
    VALUE_LEFT_OUT,
    FoundRecord,
    Letter,
    letter,
    letter_text,
    told_moment,
    told_uuid,
)
from servicedesk.queue.row import QueuedRow, queue_key


def read_dead_letter(record: FoundRecord) -> Letter | None:
    """None when notifyd did not write it: only notifyd tells the offset of the original.

    A record that was no event is told by the missing receiver; there is nothing to queue again.
    """
    told = record.told
    if "dlq_original_offset" not in told:
        return None
    receiver = told.get("dlq_receiver")
    if not receiver:
        return letter(record, event_id=None, key=None, row=None)
    event_id = told_uuid(told.get("dlq_event_id", ""))
    key = f"{receiver}/{letter_text(record.key)}"
    if not record.value:
        return letter(record, event_id=event_id, key=key, row=None, obstacle=VALUE_LEFT_OUT)
    try:
        event = parse_envelope(record.value, sane_traceparent(record.traceparent or ""))
    except MalformedEventError as error:
        reason = f"whose value cannot be read: {error}"
        return letter(record, event_id=event_id, key=key, row=None, obstacle=reason)
    if (event.event_id, queue_key(event.aggregate_id, receiver)) != (event_id, key):
        return letter(record, event_id=event_id, key=key, row=None, obstacle=CONTRADICTS)
    row = _delivery(record, event, receiver, key)
    return letter(record, event_id=event_id, key=key, row=row)


def _delivery(record: FoundRecord, event: Event, receiver: str, key: str) -> QueuedRow:
    """As it was, but for when it was queued first, which no letter tells."""
    headers = {
        "topic": record.told.get("dlq_original_topic"),
        "partition": _number(record, "partition"),
        "offset": _number(record, "offset"),
        "timestamp": _number(record, "timestamp"),
        "traceparent": event.traceparent,
        "request_id": event.request_id,
    }
    failed_at = told_moment(record.told.get("dlq_first_failed_at", ""))
    return QueuedRow(
        bucket=bucket_of(key),
        id=0,
        receiver=receiver,
        sequence=event.sequence,
        event_id=str(event.event_id),
        event_type=event.event_type,
        headers=orjson.dumps(headers).decode(),
        payload=record.value or b"",
        created_at=failed_at or event.occurred_at,
        key=key,
    )


def _number(record: FoundRecord, name: str) -> int | None:
    text = record.told.get(f"dlq_original_{name}", "")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() else None
