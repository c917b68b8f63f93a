"""The command line that shows a queue and mends it: status, parked, dead, retry, skip, redrive.

Every act is safe while daemons run, says what it did, and can be repeated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

import psycopg

from servicedesk.queue.mending_store import (
    COUNTED_ROWS,
    BucketStatus,
    DeadRow,
    MendingStore,
    Totals,
)
from servicedesk.queue.tables import QueueTables

COMMANDS = ("status", "parked", "dead", "retry", "skip", "redrive")
DONE, NOTHING_FOUND = 0, 1
# What a shell tells of a program that SIGPIPE ended.
READER_GONE = 141
BATCH_ROWS = 500
ERROR_CHARACTERS = 100
LARGEST_LIMIT = 1_000_000

EPILOG = """exit codes: 0 done, 1 nothing found or the database is away, 2 wrong usage or setting"""
HELP = {
    "status": "how much waits and since when, who drains which bucket, what is parked and dead",
    "parked": "keys that wait for a retry, the longest waiting first",
    "dead": "rows that were given up, the newest first",
    "retry": "make a parked key due now instead of after its wait; when it is refused again, that "
    "counts as an attempt",
    "skip": "give up the row that a parked key waits for: it is moved to the dead rows, without a "
    "dead letter, and the key goes on with its next row",
    "redrive": "put a dead row back into the queue. It keeps its event id, so whoever has handled "
    "it drops it, and it comes after newer events of its key: compare `sequence`",
}


def mend(
    arguments: Sequence[str],
    *,
    program: str,
    tables: QueueTables,
    database_url: Callable[[], str],
    commands: Sequence[str] = COMMANDS,
) -> int:
    """Carry out one command line and return the exit code.

    `database_url` is asked after the usage was found right. Raises SystemExit on a wrong usage.
    """
    options = _parser(program, tables, commands).parse_args(arguments)
    try:
        with MendingStore(database_url(), tables) as store:
            code = _carry_out(options, store, tables)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the rest must not fail at the exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except psycopg.errors.UndefinedTable:
        print(f"error: there is no table {tables.name}; run: python -m servicedesk.migrate",
              file=sys.stderr)  # fmt: skip
    except psycopg.Error as error:
        # One line: psycopg tells every address it tried on a line of its own.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        return code
    return NOTHING_FOUND


def _parser(program: str, tables: QueueTables, commands: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, epilog=EPILOG)
    added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    key = "RECEIVER/TICKET" if tables.has_receiver else "TICKET"
    for name in commands:
        command = added.add_parser(name, help=HELP[name], description=HELP[name], epilog=EPILOG)
        if name in {"parked", "dead"}:
            command.add_argument("--limit", type=_limit, default=50, help="lines, 50 unless given")
        if name in {"retry", "redrive"}:
            which = command.add_mutually_exclusive_group(required=True)
            which.add_argument("--all", action="store_true")
            if name == "retry":
                which.add_argument("key", nargs="?", metavar=key)
            else:
                which.add_argument("event_id", nargs="?", type=UUID, metavar="EVENT_ID")
                command.add_argument("--dry-run", action="store_true", help="only say what")
        if name == "skip":
            command.add_argument("key", metavar=key)
    return parser


def _limit(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 7 and 1 <= int(text) <= LARGEST_LIMIT):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from 1 to {LARGEST_LIMIT}"
        )
    return int(text)


def _carry_out(options: argparse.Namespace, store: MendingStore, tables: QueueTables) -> int:
    match options.command:
        case "status":
            _print_status(tables, store.buckets(), store.totals())
        case "parked":
            _print_parked(store, options.limit)
        case "dead":
            _print_dead(store, options.limit)
        case "retry":
            return _retry(store, options.key)
        case "skip":
            return _skip(store, options.key)
        case "redrive":
            return _redrive(store, options.event_id, dry_run=options.dry_run)
    return DONE


def _print_status(tables: QueueTables, buckets: Sequence[BucketStatus], totals: Totals) -> None:
    pending = sum(bucket.pending for bucket in buckets)
    more = "+" if any(bucket.pending > COUNTED_ROWS for bucket in buckets) else ""
    ages = [bucket.oldest_seconds for bucket in buckets if bucket.oldest_seconds is not None]
    facts = [
        ("queue", tables.name),
        ("pending", f"{pending}{more}"),
        ("oldest pending", _age(max(ages, default=None))),
        ("parked keys", totals.parked),
        ("dead rows", totals.dead),
        ("live workers", totals.workers),
    ]
    print_table(facts)
    print()
    shown = [bucket for bucket in buckets if not _is_idle(bucket)]
    if shown:
        _print_buckets(shown)
    idle = len(buckets) - len(shown)
    print(f"idle: {idle} of {len(buckets)} buckets, which have an owner and nothing pending")


def _is_idle(bucket: BucketStatus) -> bool:
    return bucket.pending == 0 and bucket.lease_seconds is not None and bucket.lease_seconds > 0


def _print_buckets(buckets: Sequence[BucketStatus]) -> None:
    lines: list[Sequence[object]] = [("BUCKET", "PENDING", "OLDEST", "LEASE", "EPOCH", "OWNER")]
    lines += [
        (
            bucket.bucket,
            f"{COUNTED_ROWS}+" if bucket.pending > COUNTED_ROWS else bucket.pending,
            _age(bucket.oldest_seconds),
            _lease(bucket),
            bucket.epoch,
            bucket.owner or "-",
        )
        for bucket in buckets
    ]
    print_table(lines)


def _lease(bucket: BucketStatus) -> str:
    if bucket.owner is None or bucket.lease_seconds is None:
        return "free"
    return f"{bucket.lease_seconds:.1f}s" if bucket.lease_seconds > 0 else "run out"


def _print_parked(store: MendingStore, limit: int) -> None:
    parked = store.parked(limit)
    if not parked:
        print("no parked keys")
        return
    lines: list[Sequence[object]] = [("KEY", "ROW", "ATTEMPTS", "DUE IN", "FIRST FAILED", "ERROR")]
    lines += [
        (
            key.key,
            key.first_id,
            key.attempts,
            _age(max(0.0, key.wait_seconds)),
            f"{key.first_failed_at:%Y-%m-%d %H:%M:%S%z}",
            _one_line(key.error),
        )
        for key in parked
    ]
    print_table(lines)


def _print_dead(store: MendingStore, limit: int) -> None:
    dead = store.dead(limit)
    if not dead:
        print("no dead rows")
        return
    lines: list[Sequence[object]] = [
        ("EVENT", "TYPE", "KEY", "SEQUENCE", "ATTEMPTS", "FAILED", "ERROR")
    ]
    lines += [
        (
            row.event_id,
            _one_line(row.event_type),
            row.key,
            row.sequence,
            row.attempts,
            f"{row.failed_at:%Y-%m-%d %H:%M:%S%z}",
            _one_line(row.error),
        )
        for row in dead
    ]
    print_table(lines)


def _retry(store: MendingStore, key: str | None) -> int:
    keys = store.retry(key)
    for found in keys:
        print(f"due now: {found}")
    if not keys:
        print("no parked keys" if key is None else f"not parked: {key}")
    return DONE if keys else NOTHING_FOUND


def _skip(store: MendingStore, key: str) -> int:
    skipped = store.skip(key)
    if skipped is None:
        print(f"not parked: {key}")
        return NOTHING_FOUND
    if skipped.event_id is None:
        print(f"freed: {key}; its row {skipped.first_id} was gone already")
    else:
        print(f"skipped: event {skipped.event_id}, row {skipped.first_id}, of {key}; now dead")
    return DONE


def _redrive(store: MendingStore, event_id: UUID | None, *, dry_run: bool) -> int:
    found = 0
    for rows in _all_dead(store) if event_id is None else [store.find_dead(event_id)]:
        if dry_run:
            for row in rows:
                print(f"would redrive: event {row.event_id}, {row.event_type}, of {row.key}")
            found += len(rows)
            continue
        for redriven in store.redrive(rows):
            found += 1
            print(
                f"redriven: event {redriven.event_id}, {redriven.event_type}, of {redriven.key}, "
                f"now row {redriven.id}"
            )
    if not found:
        print("no dead rows" if event_id is None else f"not dead: event {event_id}")
    return DONE if found else NOTHING_FOUND


def _all_dead(store: MendingStore) -> Iterator[list[DeadRow]]:
    """In batches, in order of id, so that no transaction is large."""
    after = 0
    while rows := store.dead_after(after, BATCH_ROWS):
        yield rows
        after = rows[-1].id


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{minutes:.0f}m" if hours < 1 else f"{hours:.1f}h" if days < 2 else f"{days:.1f}d"


def _one_line(text: str) -> str:
    """Somebody else's text may hold line breaks and terminal control sequences."""
    clean = "".join(character if character.isprintable() else " " for character in text)
    return clean if len(clean) <= ERROR_CHARACTERS else f"{clean[:ERROR_CHARACTERS]}…"


def print_table(lines: Iterable[Sequence[object]]) -> None:
    """Columns two spaces apart, each as wide as its widest cell; the last one is not padded."""
    cells = [[str(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        print("  ".join([*padded, line[-1]]))
