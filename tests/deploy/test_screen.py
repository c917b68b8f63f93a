"""Log lines become readable, follow their file, and cannot steer the terminal."""

import contextlib
import io
import os
from pathlib import Path

import orjson
import pytest

from deploy.local.screen import LogFollower, ProcessRow, Screen, readable

LINE = {
    "time": "2026-01-15T08:00:00.123456Z",
    "level": "info",
    "daemon": "notifyd",
    "event": "notification",
    "title": "Принтер 🖨️ \x1b[31m",
    "sequence": 1,
}


def test_json_line_becomes_time_level_event_and_fields() -> None:
    shown = readable(orjson.dumps(LINE).decode())
    assert shown == ('08:00:00.123 info    notification title="Принтер 🖨️ \\u001b[31m" sequence=1')


@pytest.mark.parametrize("line", ["\x1b]0;owned\x07", "{\x9b31m", '{"event":"\x7f"}'])
def test_no_control_character_reaches_the_terminal(line: str) -> None:
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in readable(line))


def test_follower_waits_for_the_end_of_a_line_and_of_a_character(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    follower = LogFollower("it", log, log.stat().st_size)
    text = "раз\nдва\n".encode()
    with log.open("ab") as out:
        out.write(text[:9])
        out.flush()
        assert follower.lines() == ["раз"]
        out.write(text[9:])
        out.flush()
        assert follower.lines() == ["два"]


def test_table_never_shortens_an_address() -> None:
    out = io.StringIO()
    address = ",".join(f"127.0.0.1:{port}" for port in range(30000, 30009))
    row = ProcessRow(name="kafka", address=address, pid="4711", log=".local/logs/kafka.log")
    Screen(out).table([row])
    assert f"  kafka  {address}  4711  .local/logs/kafka.log\n" in out.getvalue()


def test_terminal_that_is_gone_breaks_nothing() -> None:
    reading, writing = os.pipe()
    out = os.fdopen(writing, "w")
    screen = Screen(out)
    os.close(reading)
    screen.say("hello")
    assert screen.is_gone
    screen.say("hello?")
    with contextlib.suppress(BrokenPipeError):
        out.close()
