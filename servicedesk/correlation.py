"""Request ids and W3C trace context, as they travel from a request to a delivery."""

import re
from collections.abc import Callable

import orjson

REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def sane_request_id(value: str) -> str | None:
    """The caller's X-Request-Id if it is 1 to 128 visible ASCII characters, otherwise None."""
    return value if REQUEST_ID.fullmatch(value) else None


def continue_trace(value: str | None, random_bytes: Callable[[int], bytes]) -> str:
    """The traceparent to send on: the caller's trace with a new span, or a new trace.

    Source: W3C Trace Context, 3.2 and 4.3. An invalid value starts a new trace, unsampled flag
    bits other than `sampled` are dropped.
    """
    span = random_bytes(8).hex()
    found = _valid(value) if value is not None else None
    if found is not None:
        trace, _, flags = found
        return f"00-{trace}-{span}-{int(flags, 16) & 1:02x}"
    return f"00-{random_bytes(16).hex()}-{span}-00"


def sane_traceparent(value: str) -> str | None:
    """A valid traceparent to pass on, written as version 00, otherwise None. What a future version
    may put behind these fields is left out: it could hold anything, control characters included.
    """
    found = _valid(value)
    return f"00-{'-'.join(found)}" if found is not None else None


def _valid(value: str) -> tuple[str, str, str] | None:
    """The trace, the parent and the flags of a valid traceparent."""
    match = TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace, parent, flags, rest = match.groups()
    future = version != "00"
    valid = version != "ff" and int(trace, 16) and int(parent, 16) and (future or rest is None)
    return (trace, parent, flags) if valid else None


def correlation_headers(request_id: str, traceparent: str) -> bytes:
    """The JSON of an outbox row's headers."""
    return orjson.dumps({"request_id": request_id, "traceparent": traceparent})
