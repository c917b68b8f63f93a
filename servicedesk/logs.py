"""JSON logs: one line an event, a constant event name and fields.

`Log` is what our code writes with; `capture_library_logs` sends what libraries write through
`logging` into the same lines. A secret never goes in as a field. Writing a line never raises: a
request must not fail because of its log line.
"""

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
LEVEL_NAMES = ("debug", "info", "warning", "error")


class Log:
    """Writes events of one daemon as JSON lines to a stream; safe from any thread."""

    def __init__(
        self,
        daemon: str,
        *,
        level: str = "info",
        stream: TextIO | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._daemon = daemon
        self._threshold = LEVELS[level]
        self._stream = stream or sys.stderr
        self._now = now
        # Re-entrant: a finaliser may log while this very thread is writing a line.
        self._lock = threading.RLock()

    def enabled(self, level: str) -> bool:
        return LEVELS[level] >= self._threshold

    def debug(self, event: str, **fields: object) -> None:
        self.write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self.write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self.write("warning", event, fields)

    def error(self, event: str, *, error: BaseException | None = None, **fields: object) -> None:
        """With `error`, its class, text and traceback are added to the line."""
        if error is not None:
            fields |= {
                "error_class": type(error).__name__,
                "error": str(error),
                "traceback": "".join(traceback.format_exception(error)),
            }
        self.write("error", event, fields)

    def write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < self._threshold:
            return
        line = {"time": self._now(), "level": level, "daemon": self._daemon, "event": event}
        try:
            text = orjson.dumps(line | fields, default=str, option=orjson.OPT_UTC_Z)
        except TypeError:
            # A lone surrogate, an integer above 64 bits, a nesting too deep: JSON cannot hold it.
            shown = {name: ascii(value) for name, value in fields.items()}
            text = orjson.dumps(line | shown, option=orjson.OPT_UTC_Z)
        self.write_raw(text.decode())

    def write_raw(self, line: str) -> None:
        """Write one line that is JSON already, such as a buffered access line."""
        # A full disk or a reader that went away: there is nobody left to tell.
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()


class LibraryHandler(logging.Handler):
    """Turns a record of the standard logging into an event named `library_message`."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level = next((n for n in reversed(LEVEL_NAMES) if LEVELS[n] <= record.levelno), "debug")
        fields: dict[str, Any] = {"logger": record.name, "message": _message(record)}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._log.write(level, "library_message", fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):
        # The library's arguments do not fit its own format.
        return f"{record.msg} {record.args}"


def capture_library_logs(log: Log) -> None:
    """Route the root logger into `log`; libraries are heard from warnings upwards."""
    root = logging.getLogger()
    root.handlers = [LibraryHandler(log)]
    root.setLevel(logging.WARNING)
