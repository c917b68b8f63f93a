"""One JSON line for every request, collected and written together.

A line is on the stream within FLUSH_SECONDS, or at `flush`, which the shutdown calls.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

FLUSH_SECONDS = 0.2
FLUSH_LINES = 500

# A template, because a line is written for every request; what may need escaping is escaped below.
LINE = (
    '{"time":"%s.%06dZ","level":"info","daemon":"ticketd","event":"request","method":"%s",'
    '"route":"%s","status":%d,"duration_ms":%.3f,"request_id":"%s","trace_id":"%s",'
    '"caller":"%s","bytes":%d}'
)

# time, method, route, status, seconds, request id, traceparent, caller, bytes of the body; all
# texts are visible ASCII
Entry = tuple[float, str, str, int, float, str, str, str, int]


class AccessLog:
    """`write` takes whole lines without the last line break, such as Log.write_raw."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._entries: list[Entry] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = -1
        self._second_text = ""

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
            self._write("\n".join([self._line(entry) for entry in entries]))

    def _line(self, entry: Entry) -> str:
        at, method, route, status, seconds, request_id, traceparent, caller, size = entry
        second = int(at)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return LINE % (
            self._second_text,
            (at - second) * 1e6,
            method,
            route,
            status,
            seconds * 1000,
            _escaped(request_id),
            traceparent[3:35],
            _escaped(caller),
            size,
        )


def _escaped(text: str) -> str:
    """Visible ASCII as the inside of a JSON string."""
    if '"' in text or "\\" in text:
        return text.replace("\\", "\\\\").replace('"', '\\"')
    return text
