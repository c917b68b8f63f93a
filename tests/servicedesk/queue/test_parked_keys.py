"""What the table of parked keys is told, and what this worker's memory makes of it."""

import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import psycopg
import pytest

from servicedesk.bucket import bucket_of
from servicedesk.database import create_pool
from servicedesk.queue.parking import ParkedKey, Parking
from servicedesk.queue.row import Failure, Parked, QueuedRow, Rejected, queue_key
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.servicedesk.queue.harness import (
    SETTINGS,
    STEAL,
    Receiver,
    count,
    fill,
    moment,
    tickets,
    until,
    working,
)

LONG_AGO = datetime(2025, 1, 2, tzinfo=UTC)
FAILURE = Failure(error="No: no", attempts=3, first_failed_at=LONG_AGO)
BOTH = pytest.mark.parametrize("tables", [OUTBOX, DELIVERY], ids=lambda tables: tables.name)


@contextlib.asynccontextmanager
async def opened(url: str, tables: QueueTables) -> AsyncIterator[QueueStore]:
    pool = create_pool(url, application="test", minimum=1, maximum=1, wait_seconds=15)
    async with pool:
        store = QueueStore(Statements(pool, tables))
        try:
            yield store
        finally:
            await store.close()


def row_of(key: str, row_id: int) -> QueuedRow:
    return QueuedRow(
        bucket_of(key), row_id, "", row_id, "", "", "{}", b"{}", datetime.now(UTC), key
    )


def park(url: str, tables: QueueTables, key: str, first_id: int) -> None:
    insert = (
        f"INSERT INTO {tables.name}_parked (bucket, key, first_id, attempts, next_at, error) "
        "VALUES (%s, %s, %s, 2, now() + interval '1 hour', 'No: no')"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(insert.encode(), (bucket_of(key), key, first_id))


def parked_rows(url: str, tables: QueueTables) -> int:
    return count(url, f"SELECT count(*) FROM {tables.name}_parked")


@BOTH
async def test_key_that_waits_for_a_later_row_is_not_freed_by_an_earlier_one(
    database_url: str, tables: QueueTables
) -> None:
    """Another worker has the bucket meanwhile, and parked the key for the next row."""
    name = "sink" if tables.has_receiver else ""
    [ticket] = tickets(1)
    key = queue_key(ticket, name)
    fill(database_url, [ticket], 2, receivers=[name])
    first = count(database_url, f"SELECT min(id) FROM {tables.name}")
    park(database_url, tables, key, first + 1)
    async with opened(database_url, tables) as store:
        await store.unpark([(bucket_of(key), key, first)])
        assert parked_rows(database_url, tables) == 1
        await store.bury(row_of(key, first), FAILURE)
    assert parked_rows(database_url, tables) == 1
    assert count(database_url, f"SELECT first_id FROM {tables.name}_parked") == first + 1
    # The row itself is dead all the same.
    assert count(database_url, f"SELECT id FROM {tables.name}_dead") == first


@BOTH
async def test_key_is_freed_by_its_row_and_by_a_later_one(
    database_url: str, tables: QueueTables
) -> None:
    """A later one, because the row that it waited for may have been deleted by hand."""
    keys = [queue_key(ticket) for ticket in tickets(4)]
    for key in keys:
        park(database_url, tables, key, 5)
    async with opened(database_url, tables) as store:
        await store.unpark([(bucket_of(key), key, 5 + n) for n, key in enumerate(keys[:2])])
        assert parked_rows(database_url, tables) == 2
        for number, key in enumerate(keys[2:]):
            await store.bury(row_of(key, 5 + number), FAILURE)
    assert parked_rows(database_url, tables) == 0


def from_table(key: str, first_id: int, wait_seconds: float = 60.0) -> Parked:
    return Parked(
        bucket=bucket_of(key),
        key=key,
        first_id=first_id,
        attempts=2,
        wait_seconds=wait_seconds,
        first_failed_at=LONG_AGO,
        error="No: no",
        row_created_at=LONG_AGO,
    )


def test_memory_keeps_a_key_that_waits_for_a_later_row() -> None:
    parking = Parking(time.monotonic)
    parking.refresh(bucket_of("k"), [from_table("k", 6)], time.monotonic())
    assert parking.free("k", 5) is None
    assert parking.forget("k", 5) is None
    assert parking.is_waiting("k")
    assert parking.free("k", 6) is not None
    assert not parking.is_waiting("k")


def test_later_row_that_the_table_tells_of_is_news_while_an_earlier_one_is_being_freed() -> None:
    parking = Parking(time.monotonic)
    parking.refresh(bucket_of("k"), [from_table("k", 5)], time.monotonic())
    assert parking.free("k", 5) is not None
    parking.refresh(bucket_of("k"), [from_table("k", 5)], time.monotonic())
    assert not parking.is_waiting("k")
    parking.refresh(bucket_of("k"), [from_table("k", 6)], time.monotonic())
    assert parking.is_waiting("k")


def failed(key: str, row_id: int, error: str = "No: no", due_at: float = 60.0) -> ParkedKey:
    return ParkedKey(
        bucket=bucket_of(key),
        key=key,
        first_id=row_id,
        attempts=1,
        due_at=due_at,
        error=error,
        first_failed_at=LONG_AGO,
        row_created_at=LONG_AGO,
    )


async def test_keys_are_parked_together_but_for_those_of_lost_buckets(database_url: str) -> None:
    kept, new, lost = (queue_key(ticket) for ticket in tickets(3))
    park(database_url, OUTBOX, kept, 5)
    long_ago = "UPDATE outbox_parked SET first_failed_at = now() - interval '1 day'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(long_ago.encode())
        connection.execute(STEAL.encode())
    first_failed = moment(database_url, "SELECT first_failed_at FROM outbox_parked")
    epoch = count(database_url, "SELECT DISTINCT epoch FROM outbox_bucket")
    held = [
        (failed(kept, 5, "Kept: no"), epoch),
        (failed(new, 6, "New: no", due_at=3600.0), epoch),
        (failed(lost, 7), epoch - 1),
    ]
    async with opened(database_url, OUTBOX) as store:
        assert await store.park(held, owner="somebody else", now=0.0) == {}
        found = await store.park(held, owner="thief", now=0.0)
        assert set(found) == {kept, new}
        assert found[kept] == first_failed < found[new]
        parked = {row.key: row for row in await store.parked(range(64))}
        assert {key: row.first_id for key, row in parked.items()} == {kept: 5, new: 6}
        assert [parked[key].error for key in (kept, new)] == ["Kept: no", "New: no"]
        assert parked[kept].wait_seconds <= 60.0 < parked[new].wait_seconds <= 3600.0
        # The key's next row fails: it is not the one that failed a day ago.
        found = await store.park([(failed(kept, 8), epoch)], owner="thief", now=0.0)
        assert found[kept] > first_failed


COUNT_STATEMENTS = """
CREATE SEQUENCE parked_statements;
CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM nextval('parked_statements'); RETURN NULL; END $$;
CREATE TRIGGER counted AFTER INSERT ON outbox_parked EXECUTE FUNCTION count_statement();
"""


async def test_many_keys_are_parked_by_few_statements(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(COUNT_STATEMENTS.encode())
    fill(database_url, tickets(500), 1)
    receiver = Receiver(answer=lambda row: Rejected(error="No: no", retry_after_seconds=600.0))
    patient = replace(SETTINGS, max_attempts=10, lease_seconds=600.0)
    async with working(database_url, OUTBOX, receiver, patient):
        await until(lambda: parked_rows(database_url, OUTBOX) == 500, "parked keys", 30.0)
    assert count(database_url, "SELECT last_value FROM parked_statements") <= 100


def steps_of(work: Callable[[], object]) -> int:
    """How many instructions of Python it takes: what no busy machine changes."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return trace

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(former)
    return steps


MANY = 3_000


def parked_in(buckets: int) -> tuple[Parking, dict[int, list[Parked]]]:
    """`MANY` keys that wait, and what the table says of them, by bucket."""
    rows: dict[int, list[Parked]] = {bucket: [] for bucket in range(buckets)}
    for number in range(MANY):
        bucket = number % buckets
        rows[bucket].append(from_table(f"key {number}", number)._replace(bucket=bucket))
    parking = Parking(time.monotonic)
    for bucket, some in rows.items():
        parking.refresh(bucket, some, time.monotonic())
    assert len(parking.waiting_keys()) == MANY
    return parking, rows


def steps_of_refresh(buckets: int) -> int:
    parking, rows = parked_in(buckets)

    def refresh() -> None:
        for bucket, some in rows.items():
            parking.refresh(bucket, some, time.monotonic())
            parking.abandoned(some)
        parking.forget_freed(time.monotonic())
        parking.forget_tried({})

    return steps_of(refresh)


def test_refresh_looks_at_each_parked_key_once_in_however_many_buckets() -> None:
    assert steps_of_refresh(buckets=64) < 2 * steps_of_refresh(buckets=1)


def test_keys_that_go_on_waiting_cost_a_read_nothing() -> None:
    parking, _ = parked_in(buckets=64)

    def ask() -> None:
        assert parking.take_due() == []
        assert len(parking.waiting_keys()) == MANY

    assert steps_of(ask) < MANY / 10


def test_key_is_due_once_it_is_saved_and_its_time_has_come() -> None:
    now = 0.0
    parking = Parking(lambda: now)
    row = row_of("k", 5)
    parked = parking.fail(row, error="No: no", attempts=1, wait_seconds=10.0, failed_at=LONG_AGO)
    now = 11.0
    assert parking.take_due() == []
    parking.save(parked)
    assert parking.is_waiting("k")
    assert parking.take_due() == [parked]
    assert (parking.waiting_keys(), parking.take_due()) == ([], [])
    parking.wait(parked)
    assert parking.waiting_keys() == ["k"]
    assert parking.take_due() == [parked]
    # The next failure of the row takes the place of the first.
    again = parking.fail(row, error="No: no", attempts=2, wait_seconds=0.0, failed_at=LONG_AGO)
    parking.save(parked)
    assert parking.take_due() == []
    parking.save(again)
    assert parking.take_due() == [again]


def test_key_is_due_when_the_table_says_so() -> None:
    now = 100.0
    parking = Parking(lambda: now)
    bucket = bucket_of("k")
    parking.refresh(bucket, [from_table("k", 5, wait_seconds=600.0)], 100.0)
    now = 101.0
    parking.refresh(bucket, [from_table("k", 5, wait_seconds=300.0)], 101.0)
    now = 400.0
    assert parking.take_due() == []
    # Somebody wants it to be tried now.
    parking.refresh(bucket, [from_table("k", 5, wait_seconds=0.0)], 400.0)
    assert [parked.key for parked in parking.take_due()] == ["k"]


def test_lost_bucket_takes_its_keys_with_it() -> None:
    parking, _ = parked_in(buckets=64)
    parking.forget_bucket(3)
    left = MANY - len(range(3, MANY, 64))
    assert len(parking) == len(parking.waiting_keys()) == left
