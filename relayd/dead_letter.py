"""The dead letter of an outbox row: the event as it would have been sent, and why it was not.

It can be read back, so that the row goes into the outbox again as it was.
"""

import orjson

from relayd.record import Headers
from servicedesk.bucket import bucket_of
from servicedesk.correlation import sane_traceparent
from servicedesk.event import Event, MalformedEventError, parse_envelope, rfc3339
from servicedesk.mending.letter import (
    CONTRADICTS,
    VALUE_LEFT_OUT,
    FoundRecord,
    Letter,
    letter,
    told_uuid,
)
from servicedesk.queue.row import Failure, QueuedRow, queue_key

# The broker counts headers against the size of a message; the row in outbox_dead has all of it.
ERROR_BYTES = 1024
VALUE_OMITTED = b"too large; the row is kept whole in outbox_dead"


def dead_letter_headers(row: QueuedRow, failure: Failure, *, original_topic: str) -> Headers:
    """Beside those of the event. The error is told in at most 1 KiB of UTF-8."""
    error_class, _, message = failure.error.partition(": ")
    return [
        ("dlq_original_topic", original_topic.encode()),
        ("dlq_event_id", row.event_id.encode()),
        ("dlq_key", row.key.encode()),
        ("dlq_attempts", str(failure.attempts).encode()),
        ("dlq_first_failed_at", rfc3339(failure.first_failed_at).encode()),
        ("dlq_error_class", shortened(error_class, ERROR_BYTES // 4)),
        ("dlq_error_message", shortened(message, ERROR_BYTES - ERROR_BYTES // 4)),
    ]


def shortened(text: str, most: int) -> bytes:
    """UTF-8 of at most `most` bytes that never ends in the middle of a character."""
    return text.encode()[:most].decode(errors="ignore").encode()


def read_dead_letter(record: FoundRecord) -> Letter | None:
    """The letter read back, with the row as it was in the outbox; None when relayd did not write
    it. The key that it tells is what tells relayd's letters from others."""
    key = record.told.get("dlq_key")
    if key is None:
        return None
    event_id = told_uuid(record.told.get("dlq_event_id", ""))
    if not record.value:
        return letter(record, event_id=event_id, key=key, row=None, obstacle=VALUE_LEFT_OUT)
    try:
        event = parse_envelope(record.value, sane_traceparent(record.traceparent or ""))
    except MalformedEventError as error:
        reason = f"whose value cannot be read: {error}"
        return letter(record, event_id=event_id, key=key, row=None, obstacle=reason)
    if (event.event_id, queue_key(event.aggregate_id)) != (event_id, key):
        return letter(record, event_id=event_id, key=key, row=None, obstacle=CONTRADICTS)
    return letter(record, event_id=event_id, key=key, row=_outbox_row(event, key))


def _outbox_row(event: Event, key: str) -> QueuedRow:
    correlation = {"request_id": event.request_id, "traceparent": event.traceparent}
    return QueuedRow(
        bucket=bucket_of(key),
        id=0,
        receiver="",
        sequence=event.sequence,
        event_id=str(event.event_id),
        event_type=event.event_type,
        headers=orjson.dumps({k: v for k, v in correlation.items() if v is not None}).decode(),
        payload=event.payload.encode(),
        created_at=event.occurred_at,
        key=key,
    )
