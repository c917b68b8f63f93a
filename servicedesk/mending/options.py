"""The usage of the mending commands: what may be said, and what is told about it."""

import argparse
import os
import pwd
import re
import shlex
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from servicedesk.mending.selection import Selection, moment
from servicedesk.queue.tables import QueueTables

COMMANDS = ("status", "parked", "dead", "history", "retry", "skip", "redrive")
LISTS = frozenset({"parked", "dead", "history"})
ACTS = frozenset({"retry", "skip", "redrive"})
LARGEST_LIMIT = 1_000_000
LONGEST_TEXT = 1000
UNSOUND = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

EPILOG = (
    "exit codes: 0 done, 1 nothing found or a server is away, 2 wrong usage or setting, "
    "130 interrupted; what was done then stays done, and the same command goes on"
)
HELP = {
    "status": "how much waits and since when, who drains which bucket, what is parked and dead",
    "parked": "keys that wait for a retry, the longest waiting first",
    "dead": "rows that were given up, the newest first",
    "history": "what was retried, skipped and redriven, when, by whom and why, the newest first",
    "retry": "make parked keys due now instead of after their wait; when one is refused again, "
    "that counts as an attempt",
    "skip": "give up the row that a parked key waits for: it is moved to the dead rows, without a "
    "dead letter, and the key goes on with its next row",
    "redrive": "put dead rows back into the queue. An event keeps its id, so whoever has handled "
    "it drops it, and it comes after newer events of its key: compare `sequence`",
}
EVERYTHING = Selection()
SINCE = {
    "parked": "first failed",
    "retry": "first failed",
    "skip": "first failed",
    "dead": "given up",
    "redrive": "given up",
    "history": "mended",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One command line. `given` is what was said of the selection, for the history."""

    command: str
    selection: Selection = EVERYTHING
    limit: int = 50
    dry_run: bool = False
    from_topic: bool = False
    operator: str = ""
    given: str = ""


def read_options(
    arguments: Sequence[str],
    *,
    program: str,
    tables: QueueTables,
    commands: Sequence[str],
    has_topic: bool,
    now: Callable[[], datetime],
) -> Options:
    """Raises SystemExit on a wrong usage, which is told then."""
    parser = _parser(program, tables, commands, has_topic=has_topic)
    found = parser.parse_args(arguments)
    command = found.command
    if command not in LISTS | ACTS:
        return Options(command=command)
    selection = _selection(found, parser, now)
    if command in LISTS:
        return Options(command=command, selection=selection, limit=found.limit)
    if selection.is_everything != found.all:
        parser.error(
            f"{command} takes --all alone, or what to select: an id, --key, --error, --since or "
            "--until"
        )
    return Options(
        command=command,
        selection=selection,
        dry_run=found.dry_run,
        from_topic=command == "redrive" and has_topic and found.from_topic,
        operator=found.by or _operator(),
        given=shlex.join(_without_name(arguments[1:])),
    )


def _parser(
    program: str, tables: QueueTables, commands: Sequence[str], *, has_topic: bool
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, epilog=EPILOG, allow_abbrev=False)
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    key = "RECEIVER/TICKET" if tables.has_receiver else "TICKET"
    for name in commands:
        command = added.add_parser(
            name, help=HELP[name], description=HELP[name], epilog=EPILOG, allow_abbrev=False
        )
        if name in LISTS | ACTS:
            _add_selection(command, name, key)
        if name in LISTS:
            command.add_argument("--limit", type=_limit, default=50, help="lines, 50 unless given")
        if name in ACTS:
            _add_act(command, name, key)
        if name == "redrive" and has_topic:
            command.add_argument(
                "--from-topic", action="store_true",
                help="read KAFKA_DLQ_TOPIC up to its present end and put back what was given up "
                "there; what is redriven already, or waits still, is passed over. A letter whose "
                "value was left out as too large is put back from the dead rows only",
            )  # fmt: skip
    return parser


def _add_selection(command: argparse.ArgumentParser, name: str, key: str) -> None:
    command.add_argument(
        "--id", dest="event_ids", action="append", type=_uuid, default=[], metavar="EVENT_ID",
        help="only this event; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--key", dest="keys", action="append", type=_text, default=[], metavar=key,
        help="only this key; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--error", type=_text, metavar="CLASS", help="only this class: the error before its colon"
    )
    for side, word in (("since", "at or after"), ("until", "before")):
        command.add_argument(
            f"--{side}", metavar="TIME",
            help=f"only what was {SINCE[name]} {word} this RFC 3339 time, or this long ago (2h)",
        )  # fmt: skip


def _add_act(command: argparse.ArgumentParser, name: str, key: str) -> None:
    if name == "redrive":
        command.add_argument("more_ids", nargs="*", type=_uuid, metavar="EVENT_ID")
    else:
        command.add_argument("more_keys", nargs="*", type=_text, metavar=key)
    command.add_argument("--all", action="store_true", help="everything, said out loud")
    command.add_argument("--dry-run", action="store_true", help="only say what")
    command.add_argument(
        "--by", type=_text, metavar="NAME", help="who it is, for the history; user@host otherwise"
    )


def _selection(
    found: argparse.Namespace, parser: argparse.ArgumentParser, now: Callable[[], datetime]
) -> Selection:
    times: dict[str, datetime | None] = {"since": None, "until": None}
    for side in times:
        text = getattr(found, side)
        try:
            times[side] = moment(text, now) if text is not None else None
        except ValueError as error:
            parser.error(f"argument --{side}: {error}")
    since, until = times["since"], times["until"]
    if since is not None and until is not None and since >= until:
        parser.error(f"--since {found.since} is not before --until {found.until}; change one")
    return Selection(
        event_ids=(*found.event_ids, *getattr(found, "more_ids", ())),
        keys=(*found.keys, *getattr(found, "more_keys", ())),
        error=found.error,
        since=since,
        until=until,
    )


def _limit(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 7 and 1 <= int(text) <= LARGEST_LIMIT):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1 to {LARGEST_LIMIT}"
        )
    return int(text)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no event id; it takes a UUID, as `dead` prints it"
        ) from None


def _text(text: str) -> str:
    # What is no UTF-8 arrives as lone surrogates, which PostgreSQL cannot be asked for.
    if not 1 <= len(text) <= LONGEST_TEXT or UNSOUND.search(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a text of 1 to {LONGEST_TEXT} characters without control characters"
        )
    return text


def _operator() -> str:
    """Asked of the system, not of the environment, where anybody may write any name."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    return f"{name}@{socket.gethostname()}"


def _without_name(arguments: Sequence[str]) -> list[str]:
    """The name stands in a column of its own."""
    kept = list(arguments)
    if "--by" in kept:
        place = kept.index("--by")
        del kept[place : place + 2]
    return [each for each in kept if not each.startswith("--by=")]
