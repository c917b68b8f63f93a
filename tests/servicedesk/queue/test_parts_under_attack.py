"""Parts that are away, and everything else that may go wrong meanwhile.

Each of these was found broken once, or is what would have shown it.
"""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest

from servicedesk.backoff import Backoff
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
    until,
)
from tests.servicedesk.queue.harness import (
    STEAL,
    Receiver,
    Worker,
    count,
    fill,
    insert,
    tickets,
    working,
)


async def test_worker_that_starts_behind_rows_of_the_part_finds_those_of_others(
    database_url: str,
) -> None:
    """All that is in memory is for the part that is away, so nobody gets through at first."""
    waiting, flowing = of_part(0, many=64 * 30), of_part(1, 2, 3, many=50)
    fill(database_url, waiting, 1)
    fill(database_url, flowing, 1)
    cluster = Cluster(0)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL):
        await until(cluster.arrived_all(flowing, 1), "rows of the other parts")
        cluster.away.clear()
        await until(lambda: count(database_url, PENDING) == 0, "empty table")


async def test_seldom_row_of_another_part_does_not_wait_behind_many(database_url: str) -> None:
    waiting, [seldom] = of_part(0, many=200), of_part(1, many=1)
    roomy = replace(SMALL, lane_rows=8192, lane_in_flight=4096, read_rows=4096)
    fill(database_url, waiting, 1)
    cluster = Cluster(0)
    async with working(database_url, OUTBOX, cluster.receiver, roomy):
        await until(cluster.receiver.has_sent(200), "a try of each")
        fill(database_url, [seldom], 1)
        tried = len(cluster.receiver.sent)
        await until(cluster.arrived_all([seldom], 1), "the row of the other part")
        assert len(cluster.receiver.sent) - tried < 200


async def test_open_writer_does_not_have_what_waits_read_again_and_again(
    database_url: str,
) -> None:
    waiting, [late] = of_part(0, many=500), of_part(1, many=1)
    fill(database_url, waiting[:20], 1)
    cluster = Cluster(0)
    with psycopg.connect(database_url) as writer:
        insert(writer, late, 1)
        async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
            await until(lambda: worker.metric("outbox_parts_away") == 1, "part that is away")
            fill(database_url, waiting[20:], 1)
            newest = count(database_url, "SELECT max(id) FROM outbox")
            buckets = worker.drain._lines.buckets
            await until(lambda: max(b.floor for b in buckets) >= newest, "end of reading")
            reads = Reads(worker)
            await until(lambda: len(reads.rows) >= 20, "twenty more reads")
            # Once when they are looked through for others to try the part with, not each time.
            assert sum(reads.rows) <= 2 * 500
            writer.commit()
            await until(cluster.arrived_all([late], 1), "the late row")
            cluster.away.clear()
            await until(lambda: count(database_url, PENDING) == 0, "empty table")


async def test_more_partitions_are_taken_note_of_when_no_part_is_away(database_url: str) -> None:
    """Four become eight: a key stays where it was, or moves to one that there was not before."""

    class Growing(Receiver):
        told = PARTS

        def part(self, key: str) -> str:
            return self.of(key, self.told)

        def parts(self) -> int:
            self.told = self.count_parts
            return self.told

        @staticmethod
        def of(key: str, number: int) -> str:
            return f"part {int(key[-2:], 16) % number}"

    ids = tickets(200)
    away = {"part 0"}
    receiver = Growing(count_parts=PARTS)

    def is_lost(row: QueuedRow) -> bool:
        return receiver.of(row.key, receiver.count_parts) in away

    receiver.answer = lambda row: NO_LEADER if is_lost(row) else Acknowledged()
    receiver.delay_seconds = lambda row: 0.05 if is_lost(row) else 0.0
    fill(database_url, ids, 3)
    async with working(database_url, OUTBOX, receiver, SMALL) as worker:
        await until(lambda: worker.metric("outbox_parts_away") == 1, "part that is away")
        receiver.count_parts = 2 * PARTS
        away.clear()
        fill(database_url, ids, 1, first=4)
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
        assert receiver.told == PARTS
    for ticket in ids:
        assert receiver.order_of(ticket) == [1, 2, 3, 4]


async def test_poisoned_key_with_more_rows_shuts_nobody_out_of_its_bucket(
    database_url: str,
) -> None:
    [poisoned], elsewhere = of_part(0, many=1), of_part(1, many=20)
    [other] = of_bucket(poisoned, 0, many=1)
    cluster = Cluster(poisoned=poisoned, time_out_seconds=0.4)
    fill(database_url, [poisoned], 2)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:

        def is_away() -> bool:
            fill(database_url, elsewhere, 1)
            return worker.metric("outbox_parts_away") == 1

        await until(is_away, "part taken for away")
        fill(database_url, [other], 3)

        def others_flow() -> bool:
            fill(database_url, elsewhere, 1)
            return cluster.arrived_all([other], 3)()

        await until(others_flow, "rows of a key of the same bucket and part")


async def test_operator_frees_a_key_whose_part_is_away(database_url: str) -> None:
    """It has had all of its attempts; freed, it is sent again and not buried."""
    [refused], elsewhere = of_part(0, many=1), of_part(1, many=20)
    cluster = Cluster()
    answer, is_refusing = cluster.answer, True

    def refuse(row: QueuedRow) -> Outcome:
        if is_refusing and row.aggregate_id == refused and not cluster.away:
            return Rejected(error="Bad: row")
        return answer(row)

    cluster.receiver.answer = refuse
    cluster.receiver.bury_error = "not now"
    settings = replace(SMALL, max_attempts=2, retry=Backoff(base_seconds=0.3, cap_seconds=0.3))
    attempts = "SELECT coalesce(max(attempts), 0) FROM outbox_parked"
    fill(database_url, [refused], 1)
    async with working(database_url, OUTBOX, cluster.receiver, settings) as worker:
        await until(lambda: count(database_url, attempts) == 2, "key without attempts left")
        cluster.away.add("part 0")

        def is_away() -> bool:
            fill(database_url, [*of_part(0, many=2), *elsewhere], 1)
            return worker.metric("outbox_parts_away") == 1

        await until(is_away, "part that is away")
        is_refusing = False

        def is_free() -> bool:
            # Again, because a burial that was under way parks the key anew.
            with psycopg.connect(database_url, autocommit=True) as connection:
                connection.execute("DELETE FROM outbox_parked")
            return worker.metric("outbox_parked_keys") == 0

        await until(is_free, "key that is seen free")
        cluster.receiver.bury_error = None
        cluster.away.clear()
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
    assert count(database_url, "SELECT count(*) FROM outbox_dead") == 0
    assert cluster.receiver.order_of(refused) == [1]


async def test_outage_of_all_that_is_sent_to_is_shown_until_something_gets_through(
    database_url: str,
) -> None:
    """It answers probes, and one part of the far side has no rows: the circuit is half-open."""
    ids = of_part(0, 1, 2, many=12)
    fill(database_url, ids, 1)
    cluster = Cluster(0, 1, 2)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        await until(lambda: worker.metric("outbox_parts_away") == 3, "parts that are away")
        shown: list[bool] = []
        wanted = len(cluster.receiver.sent) + 20

        def has_tried() -> bool:
            shown.append(worker.drain.open_circuits() == {"": NO_LEADER.error})
            return len(cluster.receiver.sent) >= wanted

        await until(has_tried, "twenty more tries")
        assert all(shown)
        cluster.away.clear()
        await until(cluster.arrived_all(ids, 1), "all rows")
        await until(lambda: worker.drain.open_circuits() == {}, "nothing shown")


async def test_many_parts_leave_half_of_the_memory(database_url: str) -> None:
    """Each is given less the more there are, and gives back what it had before."""
    away: set[str] = set()

    def part_of(key: str) -> str:
        return f"part {int(key[-1], 16)}"

    receiver = Receiver(part_of=part_of, count_parts=16)
    receiver.answer = lambda row: NO_LEADER if part_of(row.key) in away else Acknowledged()
    patient = replace(SMALL, probe=Backoff(base_seconds=5.0, cap_seconds=5.0))
    async with working(database_url, OUTBOX, receiver, patient) as worker:
        for number in range(8):
            away.add(f"part {number}")

            def is_away(number: int = number) -> bool:
                fill(database_url, tickets(60), 1)
                return worker.metric("outbox_parts_away") == number + 1

            await until(is_away, f"part {number} that is away")
        half = SMALL.lane_rows // 2
        await until(lambda: worker.drain._lines.total_rows <= half, "half of the memory")
        fill(database_url, tickets(200), 1)
        arrived = len(receiver.arrived)
        await until(lambda: len(receiver.arrived) >= arrived + 50, "rows of the others")


async def test_key_set_aside_is_forgotten_when_its_row_is_skipped(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servicedesk.queue.parking.POSTPONED_SECONDS", 0.2)
    [poisoned], [other] = of_part(0, many=1), of_part(0, many=1)
    cluster = Cluster(poisoned=poisoned, time_out_seconds=0.4)
    fill(database_url, [poisoned], 1)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:

        def is_set_aside() -> bool:
            fill(database_url, [other], 1)
            return worker.metric("outbox_parked_keys") == 1

        await until(is_set_aside, "poisoned key that waits by itself")
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("DELETE FROM outbox WHERE aggregate_id = %s", [poisoned])
        await until(lambda: worker.metric("outbox_parked_keys") == 0, "key that is forgotten")


class Chaos:
    """Rows for 80 tickets, three of them busy, some in transactions that stay open for a while."""

    def __init__(self, url: str, chance: random.Random) -> None:
        self._url = url
        self._chance = chance
        self.ids = tickets(80)
        self.sequence = dict.fromkeys(self.ids, 0)
        self._late: psycopg.Connection[tuple[object, ...]] | None = None
        self._locked: list[UUID] = []

    def answer_of(self, cluster: Cluster) -> Callable[[QueuedRow], Outcome]:
        answer = cluster.answer

        def sometimes_refused(row: QueuedRow) -> Outcome:
            if row.aggregate_id in self.ids[10:14] and self._chance.random() < 0.3:
                return Rejected(error="Bad: luck")
            return answer(row)

        return sometimes_refused

    def _add(
        self, connection: psycopg.Connection[tuple[object, ...]], ticket: UUID, many: int
    ) -> None:
        for _ in range(many):
            self.sequence[ticket] += 1
            insert(connection, ticket, self.sequence[ticket])

    def turn(self) -> None:
        if self._late is not None and self._chance.random() < 0.6:
            self.end()
        with psycopg.connect(self._url) as connection:
            for number, ticket in enumerate(self.ids):
                if ticket not in self._locked:
                    busy = number < 3
                    self._add(connection, ticket, self._chance.randrange(60) if busy else 1)
        if self._late is None and self._chance.random() < 0.5:
            self._late = psycopg.connect(self._url)
            self._locked = self._chance.sample(self.ids, 10)
            for ticket in self._locked:
                self._add(self._late, ticket, 2)
        if self._chance.random() < 0.5:
            with psycopg.connect(self._url, autocommit=True) as connection:
                connection.execute("DELETE FROM outbox_parked")

    def end(self) -> None:
        if self._late is not None:
            self._late.commit()
            self._late.close()
        self._late, self._locked = None, []


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_lost_or_overtaken_whatever_comes_together(
    database_url: str, seed: int
) -> None:
    """Parts come and go, keys are poisoned or refused, writers are late, operators free keys, and
    a second worker comes and leaves; with odd seeds it crashes, and what was under way repeats."""
    chance = random.Random(seed)
    chaos, cluster = Chaos(database_url, chance), Cluster()
    receiver = cluster.receiver
    receiver.answer = chaos.answer_of(cluster)
    settings = replace(
        SMALL,
        max_attempts=1_000_000,
        lane_rows=chance.choice([16, 40, 64]),
        lease_seconds=chance.choice([0.9, 1.5]),
        send_seconds=0.3,
    )
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(working(database_url, OUTBOX, receiver, settings))
        second: Worker | None = None
        for turn in range(14):
            cluster.away = {f"part {n}" for n in range(PARTS) if chance.random() < 0.5}
            cluster.poisoned = chance.choice(chaos.ids) if chance.random() < 0.7 else None
            chaos.turn()
            if turn == 4:
                second = await stack.enter_async_context(
                    working(database_url, OUTBOX, receiver, settings)
                )
            if turn == 9 and second is not None:
                await (second.crash() if seed % 2 else second.stopped())
                receiver.under_way.clear()
            await until(
                cluster.receiver.has_sent(len(receiver.sent) + chance.randrange(1, 40)), "sends"
            )
        chaos.end()
        cluster.away, cluster.poisoned = set(), None
        await until(lambda: count(database_url, PENDING) == 0, "empty table")
        await until(lambda: count(database_url, PARKED) == 0, "nothing parked")
        assert first.drain._lines.total_rows == 0
    newest = dict.fromkeys(chaos.ids, 0)
    for row in receiver.arrived:
        assert row.sequence <= newest[row.aggregate_id] + 1, "a row was overtaken"
        newest[row.aggregate_id] = max(newest[row.aggregate_id], row.sequence)
    assert newest == chaos.sequence
    if seed % 2 == 0:
        assert len(receiver.arrived) == sum(chaos.sequence.values())
        assert receiver.twice_under_way == []


async def test_what_waits_in_lost_buckets_is_counted_no_longer(database_url: str) -> None:
    fill(database_url, of_part(0, many=200), 1)
    cluster = Cluster(0)
    async with working(database_url, OUTBOX, cluster.receiver, SMALL) as worker:
        await until(lambda: worker.metric("outbox_parts_away") == 1, "part that is away")
        await until(lambda: worker.metric("outbox_pending") == 200, "count of what waits")
        oldest = "outbox_oldest_pending_seconds"
        await until(lambda: worker.metric(oldest) > 0, "age of what waits")
        with psycopg.connect(database_url) as thief:
            thief.execute(STEAL)
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "loss of the leases")
        await until(lambda: worker.metric("outbox_pending") == 0, "count of nothing")
        await until(lambda: worker.metric(oldest) == 0, "age of nothing")
