"""Logs: every line is JSON with a constant event name, and writing one never fails."""

import io
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from servicedesk.logs import Log, capture_library_logs

NOW = datetime(2026, 1, 15, 8, 0, 0, 5, tzinfo=UTC)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Log:
    return Log("ticketd", stream=stream, now=lambda: NOW)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield root
    root.handlers, root.level = handlers, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().split("\n")[:-1]]


def test_line_has_time_level_daemon_event_and_fields(log: Log, stream: io.StringIO) -> None:
    log.info("ticket_created", title="Принтер 🖨️", id=UUID(int=7), seconds=0.25)
    assert lines(stream) == [
        {
            "time": "2026-01-15T08:00:00.000005Z",
            "level": "info",
            "daemon": "ticketd",
            "event": "ticket_created",
            "title": "Принтер 🖨️",
            "id": "00000000-0000-0000-0000-000000000007",
            "seconds": 0.25,
        }
    ]


def test_newlines_in_a_field_stay_inside_its_line(log: Log, stream: io.StringIO) -> None:
    log.warning("odd", text='first\nsecond\r\u2028{"event":"forged"}')
    assert stream.getvalue().count("\n") == 1
    assert lines(stream)[0]["text"].startswith("first\nsecond")


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_says_what_is_heard(level: str, heard: list[str], stream: io.StringIO) -> None:
    log = Log("ticketd", level=level, stream=stream)
    log.debug("event")
    log.info("event")
    log.warning("event")
    log.error("event")
    assert [line["level"] for line in lines(stream)] == heard
    assert [name for name in ("debug", "info", "warning", "error") if log.enabled(name)] == heard


def test_error_carries_class_text_and_traceback(log: Log, stream: io.StringIO) -> None:
    try:
        raise LookupError("нет такого")
    except LookupError as error:
        log.error("failed", error=error, ticket="x")
    (line,) = lines(stream)
    assert (line["error_class"], line["error"], line["ticket"]) == (
        "LookupError",
        "нет такого",
        "x",
    )
    assert "test_error_carries_class_text_and_traceback" in line["traceback"]


def nested(depth: int) -> object:
    return [] if depth == 0 else [nested(depth - 1)]


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "value", ["lone \ud800 surrogate", 2**70, {1: "key"}, nested(300), b"\xff", Unprintable()]
)
def test_value_that_json_cannot_hold_is_still_logged(
    value: object, log: Log, stream: io.StringIO
) -> None:
    log.error("odd", value=value, other="kept")
    (line,) = lines(stream)
    assert line["event"] == "odd"
    assert line["value"]
    assert "kept" in line["other"]


def test_stream_that_is_gone_does_not_fail_the_caller() -> None:
    log = Log("ticketd", stream=FullDisk())
    log.info("anything")


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


class SlowStream(io.StringIO):
    """Takes a line in two pieces and lets other threads run in between."""

    def write(self, text: str) -> int:
        super().write(text[:50])
        time.sleep(0)
        return super().write(text[50:])


def test_lines_of_many_threads_do_not_mix() -> None:
    stream = SlowStream()
    log = Log("ticketd", stream=stream)

    def write() -> None:
        for number in range(200):
            log.info("counted", number=number, padding="x" * 200)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 1600


def test_warnings_of_libraries_become_lines(
    log: Log, stream: io.StringIO, root_logger: logging.Logger
) -> None:
    capture_library_logs(log)
    library = logging.getLogger("some.library")
    library.info("chatter")
    library.warning("slow: %d ms", 7)
    library.critical("gone")
    assert root_logger.handlers
    assert [(line["event"], line["level"], line["message"]) for line in lines(stream)] == [
        ("library_message", "warning", "slow: 7 ms"),
        ("library_message", "error", "gone"),
    ]


def test_exception_of_a_library_keeps_its_traceback(
    log: Log, stream: io.StringIO, root_logger: logging.Logger
) -> None:
    capture_library_logs(log)
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("some.library").exception("failed")
    assert root_logger.handlers
    assert "KeyError" in lines(stream)[0]["traceback"]


def test_library_with_a_wrong_format_is_still_heard(
    log: Log, stream: io.StringIO, root_logger: logging.Logger
) -> None:
    capture_library_logs(log)
    logging.getLogger("some.library").warning("%d apples", "two")
    assert root_logger.handlers
    assert lines(stream)[0]["message"] == "%d apples ('two',)"
