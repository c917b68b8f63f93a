"""Carrying an act out: counted first, then in small batches, each a transaction of its own."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from servicedesk.mending.lists import harmless, one_line
from servicedesk.mending.options import Options
from servicedesk.mending.parked_store import ParkedStore
from servicedesk.mending.progress import Progress
from servicedesk.mending.redrive_store import RedriveStore
from servicedesk.mending.store import DeadRow, MendingStore, ParkedKey

DONE, NOTHING_FOUND = 0, 1
BATCH_ROWS = 500

Found = TypeVar("Found")


def retry(options: Options, store: MendingStore, acts: ParkedStore, progress: Progress) -> int:
    def show(key: ParkedKey) -> str:
        return f"would retry: {harmless(key.key)}: {one_line(key.error)}"

    total = store.count_parked(options.selection)
    progress.begin(total, "parked keys selected")
    batches = _parked(options, store)
    done = _dry(batches, show) if options.dry_run else _each(batches, acts.retry, progress)
    progress.end()
    return _told(options, "due now", done, total, "parked keys")


def skip(options: Options, store: MendingStore, acts: ParkedStore, progress: Progress) -> int:
    gone = 0

    def show(key: ParkedKey) -> str:
        event = f"event {key.event_id}" if key.event_id else "no event, its row is gone,"
        return f"would skip: {event} of {harmless(key.key)}: {one_line(key.error)}"

    def act(keys: list[ParkedKey]) -> int:
        nonlocal gone
        skipped = acts.skip(keys)
        gone += skipped.gone
        return skipped.keys

    total = store.count_parked(options.selection)
    progress.begin(total, "parked keys selected")
    batches = _parked(options, store)
    done = _dry(batches, show) if options.dry_run else _each(batches, act, progress)
    progress.end()
    rest = f"; the rows of {gone} were gone already" if gone else ""
    return _told(options, "skipped", done, total, f"parked keys{rest}")


def redrive(options: Options, store: MendingStore, acts: RedriveStore, progress: Progress) -> int:
    def show(row: DeadRow) -> str:
        kind, key = one_line(row.event_type), harmless(row.key)
        return f"would redrive: event {row.event_id}, {kind}, of {key}: {one_line(row.error)}"

    count = store.count_dead(options.selection)
    progress.begin(count.rows, "dead rows selected")
    batches = _dead(options, store, count.ceiling)
    done = _dry(batches, show) if options.dry_run else _each(batches, acts.redrive_rows, progress)
    progress.end()
    return _told(options, "redriven", done, count.rows, "dead rows")


def _parked(options: Options, store: MendingStore) -> Iterator[list[ParkedKey]]:
    after = (-1, "")
    while keys := store.parked_after(options.selection, after, BATCH_ROWS):
        yield keys
        after = (keys[-1].bucket, keys[-1].key)


def _dead(options: Options, store: MendingStore, ceiling: int) -> Iterator[list[DeadRow]]:
    after = 0
    while rows := store.dead_after(options.selection, after, ceiling, BATCH_ROWS):
        yield rows
        after = rows[-1].id


def _each(
    batches: Iterator[list[Found]], act: Callable[[list[Found]], int], progress: Progress
) -> int:
    for batch in batches:
        progress.advance(act(batch))
    return progress.done


def _dry(batches: Iterator[list[Found]], show: Callable[[Found], str]) -> int:
    found = 0
    for batch in batches:
        for each in batch:
            print(show(each))
        found += len(batch)
    return found


def _told(options: Options, done: str, count: int, total: int, what: str) -> int:
    if not total and not count:
        noun = what.partition(";")[0]
        print(f"no {noun}" if options.selection.is_everything else f"no {noun} are selected")
        return NOTHING_FOUND
    if options.dry_run:
        print(f"{count} {what} selected, and nothing was changed")
    else:
        print(f"{done}: {count} of {total} {what}")
    return DONE if count else NOTHING_FOUND
