"""The Kafka record of an outbox row: what servicedesk.event makes of the same event, without the
objects in between, because a relayd makes 50,000 a second. A test holds the two against each other.
"""

from functools import lru_cache
from typing import Any

import orjson

from servicedesk.event import AGGREGATE, CONTENT_TYPE, SOURCE, rfc3339
from servicedesk.queue.row import QueuedRow

# Any: lists are invariant, and the driver's stubs want str | bytes | None.
Headers = list[tuple[str, Any]]

SPECVERSION = ("ce_specversion", b"1.0")
CE_SOURCE = ("ce_source", SOURCE.encode())
CE_CONTENT_TYPE = ("content-type", CONTENT_TYPE.encode())


def record(row: QueuedRow) -> tuple[bytes, Headers]:
    """The value and the headers. Raises ValueError, TypeError or AttributeError on a malformed
    row."""
    correlation = orjson.loads(row.headers)
    request_id = correlation.get("request_id")
    traceparent = correlation.get("traceparent")
    occurred_at = rfc3339(row.created_at)
    type_json, type_header = _event_type(row.event_type)
    request = "" if request_id is None else f'"request_id":{_json(request_id)},'
    head = (
        f'{{"event_id":"{row.event_id}","event_type":{type_json},"occurred_at":"{occurred_at}",'
        f'"aggregate":"{AGGREGATE}","aggregate_id":"{row.key}","sequence":{row.sequence},'
        f'{request}"payload":'
    )
    headers: Headers = [
        SPECVERSION,
        ("ce_id", row.event_id),
        type_header,
        CE_SOURCE,
        ("ce_time", occurred_at),
        CE_CONTENT_TYPE,
    ]
    if traceparent is not None:
        if not isinstance(traceparent, str):
            raise TypeError("traceparent is not a text")
        headers.append(("traceparent", traceparent))
    return b"".join((head.encode(), row.payload, b"}")), headers


@lru_cache(maxsize=64)
def _event_type(event_type: str) -> tuple[str, tuple[str, bytes]]:
    """As JSON and as a header; there are a handful of types."""
    return _json(event_type), ("ce_type", event_type.encode())


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
