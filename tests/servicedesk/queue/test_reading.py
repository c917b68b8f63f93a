"""What a read passes over is not read again and again, and is not forgotten either."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from servicedesk.backoff import Backoff
from servicedesk.database import create_pool
from servicedesk.queue.backlog import Backlog
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.reading import Reading
from servicedesk.queue.row import Acknowledged, Most, QueuedRow, Rejected, Span, Unreachable
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.servicedesk.queue.harness import (
    SETTINGS,
    Receiver,
    count,
    fill,
    insert,
    no_parts,
    tickets,
    until,
    working,
)

AWAY = Backoff(base_seconds=60.0, cap_seconds=60.0)


async def test_backlog_of_a_receiver_that_is_away_is_passed_over_once(database_url: str) -> None:
    few = replace(SETTINGS, read_rows=16, lane_rows=8)
    lines = Lines(few, lambda: Circuit(AWAY, now=time.monotonic, random=lambda: 0.5))
    ticket = uuid4()
    fill(database_url, [ticket], 100, receivers=("away",))
    newest = count(database_url, "SELECT max(id) FROM delivery")
    [bucket] = [lines.buckets[count(database_url, "SELECT DISTINCT bucket FROM delivery")]]
    bucket.gain(epoch=1)
    lines.lane("away").circuit.trip("away")
    async with create_pool(
        database_url, application="test", minimum=1, maximum=2, wait_seconds=15
    ) as pool:
        store = QueueStore(Statements(pool, DELIVERY))
        parking, parts = Parking(time.monotonic), no_parts(lines)
        reading = Reading(store=store, lines=lines, parking=parking, parts=parts, settings=few)
        await reading.raise_horizon()
        assert await reading.read()  # eight come into memory, the lane is set aside
        assert lines.lane("away").aside == {bucket.number: 0}
        assert not await reading.read()
        assert bucket.floor == newest
        assert await Backlog(store, lines, parts, 1.0).count() == 92
        await store.close()


async def test_backlog_that_was_passed_over_is_counted_and_sent_at_last(database_url: str) -> None:
    ids = tickets(20)
    fill(database_url, ids, 10, receivers=("away", "fine"))
    is_away = True
    receiver = Receiver(reachable=lambda name: not is_away)
    acknowledged = receiver.answer
    receiver.answer = lambda row: (
        Unreachable(error="away") if row.receiver == "away" and is_away else acknowledged(row)
    )
    small = replace(SETTINGS, lane_rows=16, lane_in_flight=8, read_rows=16)
    async with working(database_url, DELIVERY, receiver, small) as worker:
        await until(receiver.has_taken(200), "the rows of the other receiver")
        # Counting is given a fiftieth of the time, so on a busy machine it is seldom.
        await until(lambda: worker.metric("delivery_pending") == 200, "count of what waits", 60.0)
        is_away = False
        await until(receiver.has_taken(400), "the rows that waited")
        await until(lambda: worker.metric("delivery_pending") == 0, "count of nothing", 60.0)
    for ticket in ids:
        for name in ("away", "fine"):
            arrived = [
                r for r in receiver.arrived if (r.aggregate_id, r.receiver) == (ticket, name)
            ]
            assert [row.sequence for row in arrived] == list(range(1, 11))


async def test_receiver_that_is_aside_gets_rows_under_ids_that_have_gone_back(
    database_url: str,
) -> None:
    """A failover to a standby that lacked the latest commits, while a receiver is away."""
    count(database_url, "SELECT setval('delivery_id_seq', 100000)")
    ids, later = tickets(20), tickets(20)
    is_away = False
    receiver = Receiver(reachable=lambda name: not is_away)
    receiver.answer = lambda row: (
        Unreachable(error="away") if row.receiver == "away" and is_away else Acknowledged()
    )
    small = replace(SETTINGS, lane_rows=16, lane_in_flight=8, read_rows=16)
    async with working(database_url, DELIVERY, receiver, small) as worker:
        fill(database_url, ids, 1, receivers=("away", "fine"))
        await until(receiver.has_taken(40), "the rows before")
        buckets = worker.drain._lines.buckets
        await until(
            lambda: min(b.safe_floor for b in buckets if b.floor) > 100_000, "settled floors"
        )
        is_away = True
        fill(database_url, ids, 10, receivers=("away", "fine"), first=2)
        await until(receiver.has_taken(240), "the rows of the other receiver")
        lane = worker.drain._lines.lanes["away"]
        await until(lambda: lane.aside is not None, "receiver that is set aside")
        count(database_url, "SELECT setval('delivery_id_seq', 100)")
        fill(database_url, later, 1, receivers=("away", "fine"))
        await until(receiver.has_taken(260), "the rows of the other receiver after")
        is_away = False
        await until(receiver.has_taken(260 + 220), "the rows that waited")


async def test_memory_is_bounded_by_bytes_where_payloads_are_big(database_url: str) -> None:
    """Small rows first, so that nothing warns of the big ones; which all come, in order."""
    ids = tickets(50)
    big = "x" * 10_000
    fill(database_url, ids, 1)
    with psycopg.connect(database_url) as connection:
        for sequence in range(2, 12):
            for ticket in ids:
                insert(connection, ticket, sequence, payload=big if sequence % 5 else "{}")
    tight = replace(SETTINGS, lane_bytes=1_000_000)
    most = most_read = 0
    receiver = Receiver(delay_seconds=lambda row: 0.001)
    async with working(database_url, OUTBOX, receiver, tight) as worker:
        store = worker.drain._reading._store.rows
        read = store.read

        async def measured(*args: Any, **kwargs: Any) -> list[QueuedRow]:
            nonlocal most_read
            rows = await read(*args, **kwargs)
            most_read = max(most_read, sum(len(row.payload) for row in rows))
            return rows

        store.read = measured  # type: ignore[method-assign]

        def have_arrived() -> bool:
            nonlocal most
            lines = worker.drain._lines
            held = sum(len(row.payload) for line in lines.lines.values() for row in line.rows)
            assert held == sum(lane.payload_bytes for lane in lines.lanes.values())
            most = max(most, held)
            return len(receiver.arrived) == 11 * 50

        await until(have_arrived, "all rows")
        await until(lambda: count(database_url, "SELECT count(*) FROM outbox") == 0, "no row left")
    for ticket in ids:
        assert receiver.order_of(ticket) == list(range(1, 12))
    # Each of up to 64 buckets may pass its share by a row; what was read comes on top of a half.
    assert 200_000 < most_read <= 500_000 + 64 * 10_000
    assert most <= 500_000 + most_read


@pytest.mark.parametrize("tables", [OUTBOX, DELIVERY], ids=["outbox", "delivery"])
async def test_read_that_ends_for_its_bytes_passes_no_row_over(
    database_url: str, tables: QueueTables
) -> None:
    """While a key waits, a read that found less than it might have is taken for the end."""
    ids = tickets(30)
    name = "sink" if tables is DELIVERY else ""
    with psycopg.connect(database_url) as connection:
        for sequence in range(1, 6):
            for ticket in ids:
                insert(connection, ticket, sequence, receiver=name, payload="x" * 10_000)
    refused = True
    receiver = Receiver(
        answer=lambda row: (
            Rejected(error="No: no") if refused and row.aggregate_id == ids[0] else Acknowledged()
        )
    )
    patient = replace(SETTINGS, max_attempts=10_000, lane_bytes=100_000, lane_rows=40)
    async with working(database_url, tables, receiver, patient):
        await until(receiver.has_taken(29 * 5), "all rows of the others")
        refused = False
        await until(receiver.has_taken(30 * 5), "all rows")
    for ticket in ids:
        assert receiver.order_of(ticket) == [1, 2, 3, 4, 5]


def test_read_of_a_bucket_ends_with_the_row_that_fills_its_bytes() -> None:
    most = Most(rows=3, payload_bytes=100)
    row = QueuedRow(1, 1, "", 1, "", "", "", b"x" * 50, datetime.now(UTC), "k")
    assert most.filled([row]) == set()
    assert most.filled([row, row]) == {1}
    assert most.filled([row._replace(bucket=bucket) for bucket in (1, 2, 2)]) == {2}
    assert most.filled([row._replace(payload=b"")] * 3) == {1}


async def test_thousands_of_parked_keys_do_not_slow_a_read_down(database_url: str) -> None:
    """Nor once PostgreSQL has made the plan that it keeps, with the sixth time."""
    fill(database_url, tickets(4_000), 1)
    spans = [Span(bucket=bucket, safe_floor=0, floor=0) for bucket in range(64)]
    most = Most(rows=64, payload_bytes=1 << 20)
    pool = create_pool(database_url, application="test", minimum=1, maximum=1, wait_seconds=15)
    async with pool:
        store = QueueStore(Statements(pool, OUTBOX))
        seconds: dict[int, list[float]] = {1: [], 20_000: []}
        for _ in range(12):
            for many, took in seconds.items():
                keys = [str(uuid4()) for _ in range(many)]
                began = time.perf_counter()
                assert await store.rows.read(spans, most, without_keys=keys)
                took.append(time.perf_counter() - began)
        await store.close()
    # One by one it is a hundred times as long.
    assert min(seconds[20_000][6:]) < 12 * min(seconds[1][6:])
