"""What the commands that only show print: tables, one line a thing, for people and for `grep`."""

from collections.abc import Iterable, Sequence

from servicedesk.mending.store import (
    COUNTED_ROWS,
    BucketStatus,
    DeadRow,
    Mended,
    ParkedKey,
    Totals,
)
from servicedesk.queue.tables import QueueTables

ERROR_CHARACTERS = 100


def print_status(tables: QueueTables, buckets: Sequence[BucketStatus], totals: Totals) -> None:
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


def print_parked(parked: Sequence[ParkedKey]) -> None:
    lines: list[Sequence[object]] = [
        ("KEY", "EVENT", "ATTEMPTS", "DUE IN", "FIRST FAILED", "ERROR")
    ]
    lines += [
        (
            harmless(key.key),
            key.event_id or "-",
            key.attempts,
            _age(max(0.0, key.wait_seconds)),
            f"{key.first_failed_at:%Y-%m-%d %H:%M:%S%z}",
            one_line(key.error),
        )
        for key in parked
    ]
    print_table(lines)


def print_dead(dead: Sequence[DeadRow]) -> None:
    lines: list[Sequence[object]] = [
        ("EVENT", "TYPE", "KEY", "SEQUENCE", "ATTEMPTS", "FAILED", "ERROR")
    ]
    lines += [
        (
            row.event_id,
            one_line(row.event_type),
            harmless(row.key),
            row.sequence,
            row.attempts,
            f"{row.failed_at:%Y-%m-%d %H:%M:%S%z}",
            one_line(row.error),
        )
        for row in dead
    ]
    print_table(lines)


def print_history(mended: Sequence[Mended]) -> None:
    lines: list[Sequence[object]] = [
        ("AT", "ACT", "BY", "EVENT", "KEY", "OUTCOME", "LETTER", "SELECTION", "ERROR")
    ]
    lines += [
        (
            f"{row.at:%Y-%m-%d %H:%M:%S%z}",
            row.act,
            one_line(row.operator),
            row.event_id or "-",
            harmless(row.key),
            row.outcome,
            row.place or "-",
            one_line(row.selection),
            one_line(row.error),
        )
        for row in mended
    ]
    print_table(lines)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    return f"{minutes:.0f}m" if hours < 1 else f"{hours:.1f}h" if days < 2 else f"{days:.1f}d"


def one_line(text: str) -> str:
    """As `harmless`, and not too long."""
    clean = harmless(text)
    return clean if len(clean) <= ERROR_CHARACTERS else f"{clean[:ERROR_CHARACTERS]}…"


def harmless(text: str) -> str:
    """Somebody else's text may hold line breaks and terminal control sequences."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(lines: Iterable[Sequence[object]]) -> None:
    """Columns two spaces apart, each as wide as its widest cell; the last one is not padded."""
    cells = [[str(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        print("  ".join([*padded, line[-1]]))
