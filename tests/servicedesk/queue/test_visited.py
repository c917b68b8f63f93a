"""No read goes through all that waits for somebody who is away: others come first, and in time."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID, uuid4

from servicedesk.backoff import Backoff
from servicedesk.bucket import bucket_of
from servicedesk.database import create_pool
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Bucket, Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.reading import Reading
from servicedesk.queue.row import Acknowledged, QueuedRow, Unreachable, queue_key
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY, OUTBOX
from tests.servicedesk.queue.cluster import SMALL, Cluster, Reads, of_part, until
from tests.servicedesk.queue.harness import SETTINGS, count, fill, no_parts, working

AWAY = Backoff(base_seconds=60.0, cap_seconds=60.0)
FEW = replace(SETTINGS, read_rows=16, lane_rows=8, visited_rows=20)


def same_bucket(receiver: str, bucket: int) -> UUID:
    while True:
        ticket = uuid4()
        if bucket_of(queue_key(ticket, receiver)) == bucket:
            return ticket


@asynccontextmanager
async def reading_of(url: str, bucket: int) -> AsyncIterator[tuple[Reading, Lines, Bucket]]:
    lines = Lines(FEW, lambda: Circuit(AWAY, now=time.monotonic, random=lambda: 0.5))
    lines.buckets[bucket].gain(epoch=1)
    pool = create_pool(url, application="test", minimum=1, maximum=2, wait_seconds=15)
    async with pool:
        store = QueueStore(Statements(pool, DELIVERY))
        parking, parts = Parking(time.monotonic), no_parts(lines)
        reading = Reading(store=store, lines=lines, parking=parking, parts=parts, settings=FEW)
        await reading.raise_horizon()
        yield reading, lines, lines.buckets[bucket]
        await store.close()


async def test_backlog_of_a_receiver_that_is_away_is_gone_through_piece_by_piece(
    database_url: str,
) -> None:
    away = uuid4()
    bucket = bucket_of(queue_key(away, "away"))
    fill(database_url, [away], 100, receivers=("away",))
    fill(database_url, [same_bucket("fine", bucket)], 1, receivers=("fine",))
    async with reading_of(database_url, bucket) as (reading, lines, ours):
        lines.lane("away").circuit.trip("away")
        floors = []
        while "fine" not in lines.lanes:
            assert await reading.read(), "there is more to read"
            floors.append(ours.floor)
        # Eight came into memory, and then no more than so many were passed over at once.
        assert len(floors) == 2 + (100 - floors[0]) // (FEW.visited_rows + 1)
        assert floors == sorted(set(floors))
        assert lines.lane("fine").rows == 1


async def test_lane_that_catches_up_goes_piece_by_piece_through_what_waits_for_others(
    database_url: str,
) -> None:
    away = uuid4()
    bucket = bucket_of(queue_key(away, "away"))
    seldom = same_bucket("seldom", bucket)
    fill(database_url, [away], 100, receivers=("away",))
    fill(database_url, [seldom], 3, receivers=("seldom",))
    async with reading_of(database_url, bucket) as (reading, lines, _):
        lines.lane("away").circuit.trip("away")
        lines.lane("away").aside = {bucket: 0}
        lane = lines.lane("seldom")
        aside = {bucket: 0}
        lane.aside = aside
        floors = []
        while lines.lane("seldom").aside is aside:
            floors.append(aside[bucket])
            assert await reading.read(), "there is more to read"
        assert len(floors) > 100 // (FEW.visited_rows + 1)
        assert floors == sorted(floors)
        assert lane.rows == 3


async def test_part_that_runs_dry_finds_other_keys_and_has_nobody_elses_read_again(
    database_url: str,
) -> None:
    """Each key that it is tried with is spent after three tries, while others get through."""
    waiting, flowing = of_part(0, many=200), of_part(1, many=20)
    fill(database_url, waiting, 1)
    fill(database_url, waiting, 1, first=2)
    cluster = Cluster(0, time_out_seconds=0.02)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        sequence = 0

        def has_tried(keys: int) -> bool:
            nonlocal sequence
            sequence += 1
            fill(database_url, flowing, 1, first=sequence)
            return len({row.key for row in cluster.receiver.sent if row.sequence == 1}) >= keys

        await until(lambda: worker.metric("outbox_parts_away") == 1, "part that is away")
        reads = Reads(worker)
        known = len({row.key for row in cluster.receiver.sent})
        await until(lambda: has_tried(known + 20), "other keys being tried")
        await until(cluster.arrived_all(flowing, sequence), "rows of the other part")
        new = sequence * len(flowing)
        assert sum(reads.rows) < new + 400 + 2_000, "not all of it with each dry spell"
        assert "part_back" not in worker.log.getvalue()
        cluster.away.clear()
        await until(lambda: count(database_url, "SELECT count(*) FROM outbox") == 0, "the rest")
    assert cluster.in_order([*waiting, *flowing])


async def test_part_whose_only_keys_are_spent_is_tried_with_them_again(database_url: str) -> None:
    [waiting], flowing = of_part(0, many=1), of_part(1, many=1)
    fill(database_url, [waiting], 3)
    is_away = True

    def answer(row: QueuedRow) -> Acknowledged | Unreachable:
        if is_away and row.aggregate_id == waiting:
            return Unreachable(error="_MSG_TIMED_OUT: no leader")
        return Acknowledged()

    cluster = Cluster()
    cluster.receiver.answer = answer
    async with working(database_url, OUTBOX, cluster.receiver, SMALL):
        sequence = 0

        def tried() -> bool:
            nonlocal sequence
            sequence += 1
            fill(database_url, flowing, 1, first=sequence)
            return sum(row.aggregate_id == waiting for row in cluster.receiver.sent) > 12

        await until(tried, "tries beyond those that a key has")
        is_away = False
        await until(cluster.arrived_all([waiting], 3), "its rows")
    assert cluster.receiver.order_of(waiting) == [1, 2, 3]
