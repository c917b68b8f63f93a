"""Several workers on one queue: fair shares, hand-over, take-over, what a lost lease forbids."""

import asyncio
import time
from dataclasses import replace

import psycopg
import pytest

from servicedesk.database import create_pool
from servicedesk.queue.lease_store import Lease, LeaseStore
from servicedesk.queue.leases import Change, Leases
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable
from servicedesk.queue.statements import Statements
from servicedesk.queue.tables import OUTBOX
from tests.servicedesk.queue.harness import (
    SETTINGS,
    STEAL,
    Receiver,
    Worker,
    count,
    fill,
    tickets,
    until,
    working,
)

# No lease ends because a busy machine renews it late.
LONG = replace(SETTINGS, lease_seconds=6.0)


def held(worker: Worker) -> float:
    return worker.metric("outbox_buckets")


async def test_second_worker_gets_its_share_within_a_lease(database_url: str) -> None:
    async with working(database_url, OUTBOX, Receiver(), LONG) as first:
        await until(lambda: held(first) == 64, "all buckets at the first worker")
        async with working(database_url, OUTBOX, Receiver(), LONG) as second:
            share = "a share of 32 each"
            await until(lambda: held(first) == held(second) == 32, share, 2 * LONG.lease_seconds)
        await until(lambda: held(first) == 64, "all buckets back", 2 * LONG.lease_seconds)
    assert first.metric("outbox_lease_lost_total") == 0


async def test_hand_over_neither_loses_nor_repeats_nor_reorders(database_url: str) -> None:
    ids = tickets(60)
    fill(database_url, ids, 20)
    receiver = Receiver(delay_seconds=lambda row: 0.01)
    workers: list[Worker] = []
    async with working(database_url, OUTBOX, receiver, LONG) as first:
        await until(lambda: len(receiver.arrived) > 100, "the first rows")
        async with working(database_url, OUTBOX, receiver, LONG) as second:
            workers = [first, second]
            await until(lambda: len(receiver.arrived) >= 1200, "all rows")
    assert len(receiver.arrived) == 1200
    for ticket in ids:
        assert receiver.order_of(ticket) == list(range(1, 21))
    assert receiver.twice_under_way == []
    assert count(database_url, "SELECT count(*) FROM outbox") == 0
    assert all(worker.metric("outbox_lease_lost_total") == 0 for worker in workers)


async def test_buckets_of_a_crashed_worker_are_taken_over_after_the_lease(
    database_url: str,
) -> None:
    ids = tickets(20)
    fill(database_url, ids, 3)
    hanging, receiver = Receiver(answer=lambda row: None), Receiver()
    async with working(database_url, OUTBOX, hanging) as first:
        await until(lambda: len(hanging.hanging) == 20, "rows under way at the first")
        await first.crash()
    async with working(database_url, OUTBOX, receiver):
        await until(lambda: len(receiver.arrived) == 60, "all rows at the second")
        for ticket in ids:
            assert receiver.order_of(ticket) == [1, 2, 3]


async def test_lost_bucket_is_left_alone(database_url: str) -> None:
    fill(database_url, tickets(20), 1)
    receiver = Receiver(answer=lambda row: None)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 20, "rows under way")
        with psycopg.connect(database_url) as thief:
            thief.execute(STEAL)
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "the loss being seen")
        receiver.let_go(Rejected(error="No: no"))
        fill(database_url, tickets(20), 1)
        worker.drain.wake()
        await worker.stopped()
    assert len(receiver.sent) == 20
    # Only the owner parks: the thief's bookkeeping is not touched.
    assert count(database_url, "SELECT count(*) FROM outbox_parked") == 0
    assert count(database_url, "SELECT count(*) FROM outbox") == 40


async def test_acknowledged_row_is_deleted_although_the_lease_is_lost(database_url: str) -> None:
    fill(database_url, tickets(20), 1)
    receiver = Receiver(answer=lambda row: None)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 20, "rows under way")
        with psycopg.connect(database_url) as thief:
            thief.execute(STEAL)
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "the loss being seen")
        receiver.let_go(Acknowledged())
        await worker.stopped()
    assert count(database_url, "SELECT count(*) FROM outbox") == 0


async def test_row_under_way_when_the_bucket_changed_hands_twice_is_read_again(
    database_url: str,
) -> None:
    """In between, somebody else may have sent it and later ones: only the table knows."""
    fill(database_url, tickets(1), 2)
    first_answers: list[Outcome | None] = [None]

    def answer(row: QueuedRow) -> Outcome | None:
        return first_answers.pop() if first_answers else Acknowledged()

    receiver = Receiver(answer=answer)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 1, "the first row under way")
        with psycopg.connect(database_url) as thief:
            thief.execute(STEAL)
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "the loss being seen")
        with psycopg.connect(database_url) as thief:
            thief.execute("DELETE FROM outbox WHERE sequence = 1")
            thief.execute("UPDATE outbox_bucket SET owner = NULL, lease_until = NULL")
        await until(lambda: held(worker) == 64, "the buckets being regained")
        receiver.let_go(Unreachable(error="Timeout: broker"))
        await until(lambda: len(receiver.arrived) == 1, "the second row")
        await worker.stopped()
    assert [row.sequence for row in receiver.arrived] == [2]


async def test_row_under_way_over_two_changes_of_hands_is_not_forgotten(database_url: str) -> None:
    """The regained bucket is read while the row is still under way; then the row comes back."""
    fill(database_url, tickets(1), 1)
    first_answers: list[Outcome | None] = [None]
    receiver = Receiver(answer=lambda row: first_answers.pop() if first_answers else Acknowledged())
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 1, "the row under way")
        with psycopg.connect(database_url) as thief:
            thief.execute(STEAL)
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "the loss being seen")
        with psycopg.connect(database_url) as thief:
            thief.execute("UPDATE outbox_bucket SET owner = NULL, lease_until = NULL")
        reading = worker.drain._reading
        await until(
            lambda: held(worker) == 64 and reading.has_read_all, "the regained bucket being read"
        )
        receiver.let_go(Unreachable(error="Timeout: broker"))
        await until(lambda: len(receiver.arrived) == 1, "the row")


async def test_worker_that_cannot_renew_stops_sending_before_its_lease_ends(
    database_url: str,
) -> None:
    """The database refuses this worker's renewals: by its own clock it falls silent in time."""
    fill(database_url, tickets(1), 1)
    receiver = Receiver()
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.arrived) == 1, "the first row")
        with psycopg.connect(database_url) as blocker:
            # Renewals wait behind this lock; reading the outbox does not.
            blocker.execute("LOCK TABLE outbox_bucket IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(SETTINGS.lease_seconds - SETTINGS.send_seconds)
            fill(database_url, tickets(10), 1)
            worker.drain.wake()
            await asyncio.sleep(SETTINGS.send_seconds)
            assert len(receiver.sent) == 1
            blocker.rollback()
        await until(lambda: len(receiver.arrived) == 11, "the rows after the lock")


async def test_worker_that_is_stopped_within_a_turn_sends_nothing_more_in_it(
    database_url: str,
) -> None:
    """Ten rows are due in one turn of the loop; with the first one the world stands still until
    another worker has the leases."""

    def stand_still(row: QueuedRow) -> Outcome:
        if len(receiver.sent) == 1:
            time.sleep(SETTINGS.lease_seconds)
            with psycopg.connect(database_url) as thief:
                thief.execute(STEAL)
        return Acknowledged()

    fill(database_url, tickets(10), 1)
    receiver = Receiver(answer=stand_still)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: worker.metric("outbox_lease_lost_total") == 64, "loss of the leases")
        assert len(receiver.sent) == 1


async def test_worker_keeps_working_when_its_connections_are_cut(database_url: str) -> None:
    ids = tickets(30)
    fill(database_url, ids, 30)
    receiver = Receiver(delay_seconds=lambda row: 0.005)
    cut = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'test' AND datname = current_database()
    """
    patient = replace(SETTINGS, lease_seconds=5.0)
    async with working(database_url, OUTBOX, receiver, patient) as worker:
        for milestone in range(100, 900, 100):
            await until(receiver.has_taken(milestone), f"{milestone} rows")
            count(database_url, cut)
        await until(lambda: len(receiver.arrived) >= 900, "all rows")
        await worker.stopped()
    for ticket in ids:
        assert receiver.order_of(ticket) == list(range(1, 31))
    assert count(database_url, "SELECT count(*) FROM outbox") == 0


class Held:
    """A holder that only remembers."""

    def __init__(self) -> None:
        self.buckets: set[int] = set()

    def gain(self, lease: Lease) -> None:
        self.buckets.add(lease.bucket)

    def lose(self, bucket: int) -> None:
        self.buckets.remove(bucket)

    def leave(self, bucket: int) -> None: ...

    def is_settled(self, bucket: int) -> bool:
        return bucket in self.buckets


class Unsteady(LeaseStore):
    """The database goes away in the midst of a look at the leases."""

    is_away = False

    async def live_workers(self) -> int:
        if self.is_away:
            raise psycopg.OperationalError("away")
        return await super().live_workers()


async def test_what_was_lost_is_told_of_though_the_database_goes_away_meanwhile(
    database_url: str,
) -> None:
    async with create_pool(
        database_url, application="test", minimum=1, maximum=2, wait_seconds=15
    ) as pool:
        store, holder = Unsteady(Statements(pool, OUTBOX), "worker"), Held()
        leases = Leases(store=store, holder=holder, lease_seconds=1.0, send_seconds=0.1)
        assert await leases.keep() == Change(gained=64, lost=0, released=0)
        count(database_url, STEAL + " RETURNING 1")
        store.is_away = True
        with pytest.raises(psycopg.OperationalError):
            await leases.keep()
        assert holder.buckets == set()
        store.is_away = False
        assert await leases.keep() == Change(gained=0, lost=64, released=0)
        assert await leases.keep() == Change(gained=0, lost=0, released=0)
