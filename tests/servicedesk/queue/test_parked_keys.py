"""What the table of parked keys is told, and what this worker's memory makes of it."""

import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest

from servicedesk.bucket import bucket_of
from servicedesk.database import create_pool
from servicedesk.queue.parking import Parking
from servicedesk.queue.row import Failure, Parked, QueuedRow, queue_key
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.servicedesk.queue.harness import count, fill, tickets

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
