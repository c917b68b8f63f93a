"""A far side of which parts are away: they take no room, and nothing overtakes when they are back.

Of a cluster's partitions some have no leader; see tests/faults for the same on a real cluster.
"""

import random
from dataclasses import replace
from uuid import UUID

import pytest

from servicedesk.bucket import bucket_of
from servicedesk.queue.parts import HELD_LINES
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected
from servicedesk.queue.tables import OUTBOX
from tests.servicedesk.queue.cluster import (
    NO_LEADER,
    PARKED,
    PARTS,
    PENDING,
    SMALL,
    Cluster,
    Reads,
    of_bucket,
    of_part,
    part_of,
    until,
)
from tests.servicedesk.queue.harness import (
    Receiver,
    Worker,
    count,
    fill,
    tickets,
    working,
)


def opened(worker: Worker) -> bool:
    return "circuit_opened" in worker.log.getvalue()


async def test_more_rows_than_memory_holds_wait_for_a_part_and_the_others_flow(
    database_url: str,
) -> None:
    waiting, flowing = of_part(0, many=300), of_part(1, 2, 3, many=300)
    together = waiting + flowing
    random.shuffle(together)
    fill(database_url, together, 3)
    # So long that others get through meanwhile, on a busy machine too.
    cluster = Cluster(0, time_out_seconds=0.4)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        await until(cluster.arrived_all(flowing, 3), "rows of the other parts")
        fill(database_url, waiting[:50] + flowing[:50], 3)
        await until(cluster.arrived_all(flowing[:50], 6), "rows of the other parts once more")
        assert len(cluster.receiver.arrived) == 3 * 300 + 3 * 50
        await until(lambda: worker.metric("outbox_parts_away") == 1, "metric of what is away")
        await until(lambda: worker.metric("outbox_pending") == 3 * 350, "count of what waits")
        assert not opened(worker)
        assert "part_back" not in worker.log.getvalue()
        cluster.away.clear()
        await until(cluster.arrived_all(waiting, 3), "rows that waited")
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
        await until(lambda: worker.metric("outbox_parts_away") == 0, "metric of nothing away")
    assert count(database_url, PARKED) == 0


async def test_each_row_for_a_part_that_is_away_is_read_once(database_url: str) -> None:
    """Not read, and not sent, again and again; the few that it is tried with take turns."""
    waiting, flowing = of_part(0, many=200), of_part(1, many=10)
    fill(database_url, waiting + flowing, 1)
    cluster = Cluster(0)
    roomy = replace(SMALL, lane_rows=1024)
    async with working(database_url, OUTBOX, cluster.receiver, roomy) as worker:
        reads = Reads(worker)
        await until(lambda: worker.metric("outbox_parts_away") == 1, "part that is away")
        await until(lambda: worker.drain._lines.total_rows <= HELD_LINES, "end of the others")
        tried = len(cluster.receiver.sent)
        await until(cluster.receiver.has_sent(tried + 20), "twenty more tries")
        assert sum(reads.rows) == 210
        assert len({row.key for row in cluster.receiver.sent[tried:]}) >= 10
        cluster.away.clear()
        await until(cluster.arrived_all(waiting, 1), "rows that waited")


@pytest.mark.parametrize("before", [1, 100])
async def test_busy_key_of_a_part_that_is_away_takes_no_memory(
    database_url: str, before: int
) -> None:
    """Nor do the rows that were behind its first one `before` the part went away."""
    [busy], [other] = of_part(0, many=1), of_part(1, many=1)
    fill(database_url, [busy], before)
    cluster = Cluster(0)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:

        def is_away() -> bool:
            fill(database_url, [other], 1)
            return worker.metric("outbox_parts_away") == 1

        await until(is_away, "part that is away")
        fill(database_url, [busy], 200 - before, first=before + 1)
        await until(lambda: worker.metric("outbox_pending") == 200, "count of what waits")
        await until(lambda: worker.drain._reading.has_read_all, "end of reading")
        await until(lambda: worker.drain._lines.total_rows == 1, "one row in memory")
        cluster.away.clear()
        await until(cluster.arrived_all([busy], 200), "its rows")
    assert cluster.receiver.order_of(busy) == list(range(1, 201))


async def test_row_that_alone_does_not_get_through_holds_up_no_other_of_its_part(
    database_url: str,
) -> None:
    poisoned, other = of_part(0, many=2)
    fill(database_url, [poisoned], 1)
    # Long enough for another row to get through meanwhile, on a busy machine too.
    cluster = Cluster(poisoned=poisoned, time_out_seconds=0.4)
    sent = 0
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:

        def is_set_aside() -> bool:
            nonlocal sent
            sent += 1
            fill(database_url, [other], 1, first=sent)
            return worker.metric("outbox_parked_keys") == 1

        await until(is_set_aside, "poisoned key that waits by itself")
        await until(cluster.arrived_all([other], sent), "rows of the same part")
        assert cluster.receiver.order_of(other) == list(range(1, sent + 1))
        assert cluster.receiver.order_of(poisoned) == []
        cluster.poisoned = None
        await until(cluster.arrived_all([poisoned], 1), "the row itself")
    assert count(database_url, PARKED) == 0
    assert count(database_url, "SELECT count(*) FROM outbox_dead") == 0


async def test_part_that_only_the_trouble_itself_is_tried_with_takes_others_for_it(
    database_url: str,
) -> None:
    """All that is in memory of a part is the poisoned row; what comes then is tried as well."""
    poisoned, other = of_part(0, many=2)
    elsewhere = of_part(1, many=20)
    fill(database_url, [poisoned], 1)
    cluster = Cluster(poisoned=poisoned, time_out_seconds=0.4)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        await until(lambda: poisoned in {r.aggregate_id for r in cluster.receiver.sent}, "a try")

        def is_told() -> bool:
            fill(database_url, elsewhere[:1], 1)
            return "part_away" in worker.log.getvalue()

        await until(is_told, "part taken for away")
        fill(database_url, [other], 3)
        await until(cluster.arrived_all([other], 3), "rows of another key of the part")
        assert "part_back" in worker.log.getvalue()


async def test_far_side_that_goes_away_part_by_part_opens_the_circuit(database_url: str) -> None:
    """Each part is found away by a row during which others got through, so none of them is the
    one with which all is away."""
    first = [of_part(number, many=1)[0] for number in range(PARTS)]
    others = tickets(20)
    fill(database_url, first, 1)
    away = True
    receiver = Receiver(
        answer=lambda row: None if away and row.aggregate_id in first else Acknowledged(),
        part_of=part_of,
        count_parts=PARTS,
    )
    async with working(database_url, OUTBOX, receiver, SMALL) as worker:
        await until(lambda: len(receiver.hanging) == PARTS, "a row under way to each part")
        fill(database_url, others, 1)
        await until(receiver.has_taken(20), "rows of others")
        receiver.answer = lambda row: NO_LEADER if away else Acknowledged()
        receiver.let_go(NO_LEADER)
        fill(database_url, others, 1, first=2)
        await until(lambda: worker.metric("outbox_circuit_open") == 1, "an open circuit")
        assert worker.log.getvalue().count("part_away") == PARTS
        assert worker.drain.open_circuits() == {"": NO_LEADER.error}
        away = False
        await until(receiver.has_taken(PARTS + 40), "all rows")
        await until(lambda: worker.metric("outbox_circuit_open") == 0, "a closed circuit")
    assert count(database_url, PARKED) == 0


async def test_buckets_change_hands_while_a_part_is_away(database_url: str) -> None:
    ids, others = of_part(0, many=200), of_part(1, many=20)
    fill(database_url, ids + others, 3)
    cluster = Cluster(0)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as first:
        await until(lambda: first.metric("outbox_parts_away") == 1, "part that is away")
        async with working(database_url, OUTBOX, cluster.receiver, SMALL) as second:
            await until(lambda: second.metric("outbox_buckets") == 32, "share of the second")

            def is_away_there() -> bool:
                fill(database_url, others, 1)
                return second.metric("outbox_parts_away") == 1

            await until(is_away_there, "part away there too")
            await first.crash()
            cluster.away.clear()
            await until(cluster.arrived_all(ids, 3), "all rows")
            await until(lambda: count(database_url, PENDING) == 0, "empty table")
    # A crash may repeat what was under way, and what is new still comes in order.
    newest: dict[UUID, int] = {}
    for row in [row for row in cluster.receiver.arrived if row.aggregate_id in set(ids)]:
        assert row.sequence <= newest.get(row.aggregate_id, 0) + 1
        newest[row.aggregate_id] = max(newest.get(row.aggregate_id, 0), row.sequence)


@pytest.mark.parametrize("seed", range(4))
async def test_order_holds_while_parts_come_and_go(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    ids = tickets(150)
    cluster = Cluster()
    events = 0
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        for _ in range(12):
            cluster.away = {f"part {n}" for n in range(PARTS) if chance.random() < 0.5}
            cluster.poisoned = chance.choice(ids)
            fill(database_url, ids, 1, first=events + 1)
            events += 1
            wanted = len(cluster.receiver.sent) + chance.randrange(1, 60)
            await until(cluster.receiver.has_sent(wanted), "sends")
        cluster.away, cluster.poisoned = set(), None
        await until(lambda: len(cluster.receiver.arrived) >= events * len(ids), "all rows")
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
        assert "part_away" in worker.log.getvalue()
    assert cluster.in_order(ids)
    assert len(cluster.receiver.arrived) == events * len(ids)


async def test_refused_key_has_nothing_read_again_but_its_own_rows(database_url: str) -> None:
    """Its bucket is full of rows for a part that is away."""
    refused, other = of_part(1, many=2)
    waiting = of_bucket(refused, 0, many=20)
    cluster = Cluster(0)
    answer, is_refusing = cluster.answer, True

    def refuse(row: QueuedRow) -> Outcome:
        if is_refusing and row.aggregate_id == refused:
            return Rejected(error="Bad: row")
        return answer(row)

    cluster.receiver.answer = refuse
    patient = replace(SMALL, max_attempts=10_000, lane_rows=1024, read_rows=1024)
    async with working(database_url, OUTBOX, cluster.receiver, patient) as worker:

        def is_away() -> bool:
            fill(database_url, [other], 1)
            return worker.metric("outbox_parts_away") == 1

        fill(database_url, waiting, 1)
        await until(is_away, "part that is away")
        fill(database_url, [refused], 1)
        fill(database_url, waiting, 50, first=2)
        newest = count(database_url, "SELECT max(id) FROM outbox")
        bucket = worker.drain._lines.buckets[bucket_of(str(refused))]
        await until(lambda: bucket.floor >= newest, "end of reading")
        reads = Reads(worker)
        tried = len(cluster.receiver.sent)
        fill(database_url, [refused], 3, first=2)

        def is_tried_again() -> bool:
            latest = cluster.receiver.sent[tried:]
            return sum(row.aggregate_id == refused for row in latest) >= 10

        await until(is_tried_again, "ten more attempts")
        assert sum(reads.rows) <= 3
        is_refusing = False
        await until(cluster.arrived_all([refused], 4), "the rows of the key")
        assert cluster.receiver.order_of(refused) == [1, 2, 3, 4]
        cluster.away.clear()
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
