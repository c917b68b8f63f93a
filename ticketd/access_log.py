"""One JSON line for every request, collected and written together.

A line is on the stream within FLUSH_SECONDS, or at `flush`, which the shutdown calls.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

FLUSH_SECONDS = 0.2
FLUSH_LINES = 500

# time, method, route, status, seconds, request id, traceparent, caller, bytes of the body
Entry = tuple[float, str, str, int, float, str, str, str, int]


class AccessLog:
    """`write` takes whole lines without the last line break, such as Log.write_raw."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._entries: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
        elif len(self._entries) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        entries, self._entries = self._entries, []
        if entries:
            self._write("\n".join([_line(entry) for entry in entries]))


def _line(entry: Entry) -> str:
    at, method, route, status, seconds, request_id, traceparent, caller, size = entry
    return orjson.dumps(
        {
            "time": datetime.fromtimestamp(at, UTC),
            "level": "info",
            "daemon": "ticketd",
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "request_id": request_id,
            "trace_id": traceparent[3:35],
            "caller": caller,
            "bytes": size,
        },
        option=orjson.OPT_UTC_Z,
    ).decode()
