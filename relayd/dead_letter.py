"""The dead letter of an outbox row: the event as it would have been sent, and why it was not."""

from relayd.record import Headers
from servicedesk.event import rfc3339
from servicedesk.queue.row import Failure, QueuedRow

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
