"""What the person at the terminal sees: the table of processes, and their logs as they grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import orjson
from rich.console import Console
from rich.text import Text

COLOURS = {
    "stack": "bold white",
    "ticketd": "bright_cyan",
    "relayd": "bright_magenta",
    "notifyd": "bright_green",
    "receiver": "bright_yellow",
    "postgres": "blue",
    "kafka": "red",
    "valkey": "cyan",
    "s3": "magenta",
}
# Control characters in somebody's text must not steer the terminal.
CONTROL = dict.fromkeys([*range(9), *range(10, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
SHOWN_APART = ("time", "level", "daemon", "event", "traceback")
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    name: str
    address: str
    pid: str
    log: str


def readable(line: str) -> str:
    """A JSON log line as time, level, event and name=value; any other line as it is. The result is
    one line without control characters."""
    try:
        fields: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return line.translate(CONTROL)
    if not isinstance(fields, dict) or "event" not in fields:
        return line.translate(CONTROL)
    rest = [f"{name}={_value(fields[name])}" for name in fields if name not in SHOWN_APART]
    if "traceback" in fields:
        rest.append("(traceback in the log)")
    time, level = str(fields.get("time", ""))[11:23], str(fields.get("level", ""))
    return " ".join([time, f"{level:<7}", str(fields["event"]), *rest]).translate(CONTROL)


def _value(value: object) -> str:
    plain = isinstance(value, str) and value and not any(c in ' "=' or c < " " for c in value)
    return str(value) if plain else orjson.dumps(value).decode()


class LogFollower:
    """Reads the complete lines that are added to a log file after `start`, in bytes."""

    def __init__(self, name: str, path: Path, start: int) -> None:
        self.name = name
        self._path = path
        self._position = start
        self._rest = b""

    def lines(self) -> list[str]:
        with self._path.open("rb") as log:
            log.seek(self._position)
            added = log.read(READ_BYTES)
        self._position += len(added)
        *complete, self._rest = (self._rest + added).split(b"\n")
        return [line.decode(errors="replace").rstrip() for line in complete]


class Screen:
    """Writes to the terminal. When that is gone, `is_gone` says so and nothing fails."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, soft_wrap=True)
        self._followers: list[LogFollower] = []
        self.is_gone = False

    def say(self, line: str, name: str = "stack") -> None:
        label = Text(f"{name:<8} │ ", style=COLOURS.get(name, "white"))
        self._print(label.append(line.translate(CONTROL), style="default not bold"))

    def plain(self, text: str) -> None:
        """For lines to be copied: without a label or colour."""
        self._print(Text(text))

    def table(self, rows: Sequence[ProcessRow]) -> None:
        """Aligned and never cut: in a narrow terminal a wrapped address can still be read."""
        cells = [("name", "address", "pid", "log")]
        cells += [(row.name, row.address, row.pid, row.log) for row in rows]
        widths = [max(len(row[column]) for row in cells) for column in range(4)]
        self.plain("")
        for row in cells:
            name, *rest = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            line = Text(f"  {name}", style=COLOURS.get(row[0], "bold"))
            self._print(line.append(f"  {'  '.join(rest)}".rstrip(), style="default not bold"))
        self.plain("")

    def follow(self, name: str, log: Path, start: int) -> None:
        self._followers.append(LogFollower(name, log, start))

    def pump(self) -> None:
        """Show what the logs have got since the last call."""
        for follower in self._followers:
            for line in filter(None, follower.lines()):
                if follower.name != "s3" or not _is_chatter(line):
                    self.say(readable(line), follower.name)

    def _print(self, what: Text) -> None:
        if self.is_gone:
            return
        try:
            self._console.print(what, crop=False, no_wrap=True, overflow="ignore")
        except (OSError, SystemExit):  # rich leaves the program when a pipe is closed
            self.is_gone = True


def _is_chatter(line: str) -> bool:
    """weed tells every step at level I; what matters begins with W, E or F."""
    return line[:1] not in {"W", "E", "F"}
