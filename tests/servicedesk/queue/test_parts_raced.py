"""Parts that come and go between two reads, and what else may run beside a read or a burial."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from servicedesk.backoff import Backoff
from servicedesk.queue.row import Acknowledged, Failure, Outcome, QueuedRow, Rejected
from servicedesk.queue.tables import OUTBOX
from tests.servicedesk.queue.cluster import (
    NO_LEADER,
    PARTS,
    PENDING,
    SMALL,
    Cluster,
    of_bucket,
    of_part,
    part_of,
    until,
)
from tests.servicedesk.queue.harness import SETTINGS, Receiver, count, fill, insert, working


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_overtakes_at_a_part_that_flickers(database_url: str, seed: int) -> None:
    """Its rows fail and arrive in turn, so it is back and away again before the next read."""
    chance = random.Random(seed)
    ids = of_part(0, many=40) + of_part(1, many=10)
    is_calm = False
    receiver = Receiver(part_of=part_of, count_parts=PARTS)

    def answer(row: QueuedRow) -> Outcome:
        is_unlucky = not is_calm and part_of(row.key) == "part 0" and chance.random() < 0.5
        return NO_LEADER if is_unlucky else Acknowledged()

    receiver.answer = answer
    receiver.delay_seconds = lambda row: chance.random() * 0.02
    async with working(database_url, OUTBOX, receiver, SMALL):
        for sequence in range(1, 31):
            fill(database_url, chance.sample(ids, len(ids)), 1, first=sequence)
            wanted = len(receiver.sent) + chance.randrange(40)
            await until(receiver.has_sent(wanted), "sends")
        is_calm = True
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
    for ticket in ids:
        assert receiver.order_of(ticket) == list(range(1, 31))


class SlowToBury(Receiver):
    """Dead letters hang until `gate` is opened."""

    gate: asyncio.Event

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        self.buried.append((row, failure))
        await self.gate.wait()


async def test_row_that_comes_while_its_key_is_buried_and_its_part_away_is_read_at_last(
    database_url: str,
) -> None:
    [refused], [other], elsewhere = of_part(0, many=1), of_part(0, many=1), of_part(1, many=20)
    cluster = Cluster()
    answer = cluster.answer
    receiver = SlowToBury(
        answer=lambda row: (
            Rejected(error="Bad: row")
            if row.aggregate_id == refused and row.sequence == 1
            else answer(row)
        ),
        delay_seconds=cluster.delay_seconds,
        part_of=part_of,
        count_parts=PARTS,
    )
    receiver.gate = asyncio.Event()
    fill(database_url, [refused], 1)
    async with working(database_url, OUTBOX, receiver, SMALL) as worker:
        await until(lambda: bool(receiver.buried), "dead letter under way")
        cluster.away.add("part 0")
        fill(database_url, [other], 1)

        def is_away() -> bool:
            fill(database_url, elsewhere, 1)
            return worker.metric("outbox_parts_away") == 1

        await until(is_away, "part that is away")
        fill(database_url, [refused], 1, first=2)
        newest = count(database_url, "SELECT max(id) FROM outbox")
        buckets = worker.drain._lines.buckets
        await until(lambda: max(b.safe_floor for b in buckets) >= newest, "end of reading")
        receiver.gate.set()
        dead = "SELECT count(*) FROM outbox_dead"
        await until(lambda: count(database_url, dead) == 1, "dead row")
        cluster.away.clear()
        fill(database_url, [refused], 1, first=3)
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
    assert receiver.order_of(refused) == [2, 3]


async def test_big_rows_of_parts_that_are_away_leave_room_for_others(database_url: str) -> None:
    waiting, flowing = of_part(0, 1, many=40), of_part(2, 3, many=30)
    with psycopg.connect(database_url) as connection:
        for ticket in waiting:
            insert(connection, ticket, 1, payload="x" * 60_000)
    cluster = Cluster(0, 1)
    tight = replace(SETTINGS, lane_bytes=1_000_000)
    async with working(database_url, OUTBOX, cluster.receiver, tight) as worker:
        await until(lambda: worker.metric("outbox_parts_away") == 2, "parts that are away")
        fill(database_url, flowing, 1)
        await until(cluster.arrived_all(flowing, 1), "rows of the other parts")
        cluster.away.clear()
        await until(lambda: count(database_url, PENDING) == 0, "empty table")


@pytest.mark.parametrize("is_skipped", [True, False])
async def test_key_that_is_due_while_the_database_is_away_is_read_afterwards(
    database_url: str, *, is_skipped: bool
) -> None:
    [refused], elsewhere = of_part(1, many=1), of_part(2, many=5)
    [waiting] = of_bucket(refused, 0, many=1)
    cluster = Cluster(0)
    answer, is_refusing = cluster.answer, True

    def refuse(row: QueuedRow) -> Outcome:
        if is_refusing and row.aggregate_id == refused and row.sequence == 1:
            return Rejected(error="Bad: row")
        return answer(row)

    cluster.receiver.answer = refuse
    settings = replace(SMALL, max_attempts=1_000, retry=Backoff(base_seconds=0.5, cap_seconds=0.5))
    fill(database_url, [*elsewhere, waiting], 1)
    async with working(database_url, OUTBOX, cluster.receiver, settings) as worker:

        def is_away() -> bool:
            fill(database_url, elsewhere, 1)
            return worker.metric("outbox_parts_away") == 1

        await until(is_away, "part that is away")
        fill(database_url, [waiting], 3, first=2)
        fill(database_url, [refused], 3)
        store = worker.drain._reading._store.rows
        read_keys = store.read_keys
        failures = 0

        async def failing(*args: Any, **kwargs: Any) -> list[QueuedRow]:
            nonlocal failures
            failures += 1
            raise psycopg.OperationalError("away")

        store.read_keys = failing  # type: ignore[method-assign]
        await until(lambda: failures >= 1, "a read that fails")
        store.read_keys = read_keys  # type: ignore[method-assign]
        # A first row that was read just before it is deleted is refused once more.
        is_refusing = is_skipped
        if is_skipped:
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute(
                    "DELETE FROM outbox WHERE aggregate_id = %s AND sequence = 1", [refused]
                )
        wanted = [2, 3] if is_skipped else [1, 2, 3]
        await until(cluster.arrived_all([refused], len(wanted)), "the rows of the key")
        fill(database_url, [refused], 1, first=4)
        await until(cluster.arrived_all([refused], len(wanted) + 1), "its next row")
    assert cluster.receiver.order_of(refused) == [*wanted, 4]
