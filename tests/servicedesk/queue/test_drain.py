"""What the ordered queue promises, on a real database: order, isolation, no loss."""

import asyncio
from dataclasses import replace
from uuid import UUID

import psycopg

from servicedesk.backoff import Backoff
from servicedesk.bucket import bucket_of
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable
from servicedesk.queue.tables import DELIVERY, OUTBOX
from tests.servicedesk.queue.harness import (
    SETTINGS,
    Receiver,
    count,
    fill,
    insert,
    tickets,
    until,
    working,
)

PENDING = "SELECT count(*) FROM outbox"


async def test_every_row_arrives_in_order_of_its_key_and_is_deleted(database_url: str) -> None:
    ids = tickets(50)
    fill(database_url, ids, 10)
    receiver = Receiver()
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.arrived) == 500, "500 rows")
        for ticket in ids:
            assert receiver.order_of(ticket) == list(range(1, 11))
        assert receiver.twice_under_way == []
        await worker.stopped()
    assert count(database_url, PENDING) == 0
    assert worker.metric("outbox_published_total", event_type="ticket.updated") == 500


async def test_row_committed_while_draining_arrives_after_a_wake_up(database_url: str) -> None:
    receiver = Receiver()
    # Nothing but the wake-up has it look.
    slow_poll = replace(SETTINGS, poll_min_seconds=60.0, poll_max_seconds=60.0, lease_seconds=600.0)
    async with working(database_url, OUTBOX, receiver, slow_poll) as worker:
        await until(lambda: worker.metric("outbox_buckets") == 64, "leases")
        fill(database_url, tickets(1), 1)
        worker.drain.wake()
        await until(lambda: len(receiver.arrived) == 1, "the row")


async def test_rejected_row_holds_back_only_its_key_and_is_retried(database_url: str) -> None:
    poisoned, healthy = tickets(2)
    fill(database_url, [poisoned, healthy], 3)
    refusals = 2

    def answer(row: QueuedRow) -> Outcome:
        nonlocal refusals
        if row.aggregate_id == poisoned and row.sequence == 1 and refusals:
            refusals -= 1
            return Rejected(error="Refused: not today")
        return Acknowledged()

    receiver = Receiver(answer=answer)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.arrived) == 6, "all six rows")
        assert receiver.order_of(healthy) == [1, 2, 3]
        assert receiver.order_of(poisoned) == [1, 2, 3]
        assert worker.metric("outbox_rejected_total") == 2
        await worker.stopped()
    assert count(database_url, PENDING) == 0
    assert count(database_url, "SELECT count(*) FROM outbox_parked") == 0


async def test_exhausted_row_is_buried_and_its_key_goes_on(database_url: str) -> None:
    poisoned, healthy = tickets(2)
    fill(database_url, [poisoned, healthy], 2)
    receiver = Receiver(
        answer=lambda row: (
            Rejected(error="TooLarge: 2 MB")
            if row.aggregate_id == poisoned and row.sequence == 1
            else Acknowledged()
        )
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.arrived) == 3, "the other three rows")
        await worker.stopped()
    assert receiver.order_of(poisoned) == [2]
    [(row, failure)] = receiver.buried
    assert (row.aggregate_id, row.sequence) == (poisoned, 1)
    assert (failure.attempts, failure.error) == (3, "TooLarge: 2 MB")
    assert len([row for row in receiver.sent if row.aggregate_id == poisoned]) == 3 + 1
    with psycopg.connect(database_url) as connection:
        dead = connection.execute("SELECT event_id, attempts, error FROM outbox_dead").fetchall()
    assert dead == [(UUID(row.event_id), 3, "TooLarge: 2 MB")]
    assert count(database_url, PENDING) == 0
    assert count(database_url, "SELECT count(*) FROM outbox_parked") == 0
    assert worker.metric("outbox_dead_total") == 1


async def test_row_stays_while_its_dead_letter_cannot_be_published(database_url: str) -> None:
    [poisoned] = tickets(1)
    fill(database_url, [poisoned], 2)
    receiver = Receiver(
        answer=lambda row: Rejected(error="No: no") if row.sequence == 1 else Acknowledged(),
        bury_error="Kafka is away",
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: "bury_postponed" in worker.log.getvalue(), "a postponed burial")
        assert count(database_url, PENDING) == 2
        receiver.bury_error = None
        await until(lambda: len(receiver.arrived) == 1, "the row behind the dead one")
        await worker.stopped()
    assert len(receiver.buried) == 1
    assert len([row for row in receiver.sent if row.sequence == 1]) == 3


async def test_outage_costs_no_attempts_and_nothing_is_lost(database_url: str) -> None:
    ids = tickets(20)
    fill(database_url, ids, 3)
    away = True

    def answer(row: QueuedRow) -> Outcome:
        return Unreachable(error="Timeout: broker") if away else Acknowledged()

    receiver = Receiver(answer=answer, reachable=lambda name: not away)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: worker.metric("outbox_circuit_open") == 1, "an open circuit")
        assert worker.drain.open_circuits() == {"": "Timeout: broker"}
        tried = len(receiver.sent)
        assert tried <= 20
        away = False
        await until(lambda: len(receiver.arrived) == 60, "all rows after the outage")
        assert worker.metric("outbox_circuit_open") == 0
        for ticket in ids:
            assert receiver.order_of(ticket) == [1, 2, 3]
        await worker.stopped()
    assert count(database_url, "SELECT count(*) FROM outbox_parked") == 0


async def test_after_a_probe_one_row_is_tried_until_its_fate_is_known(database_url: str) -> None:
    fill(database_url, tickets(20), 1)
    away = True
    receiver = Receiver(
        answer=lambda row: Unreachable(error="Refused: connection") if away else None,
        reachable=lambda name: not away,
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: worker.metric("outbox_circuit_open") == 1, "an open circuit")
        await until(lambda: not receiver.under_way, "an end of what was under way")
        away = False
        await until(lambda: bool(receiver.hanging), "a row that is tried")
        assert len(receiver.hanging) == 1
        receiver.let_go(Acknowledged())
        await until(lambda: len(receiver.hanging) == 19, "sending of the others")
        receiver.let_go(Acknowledged())
        await until(receiver.has_taken(20), "arrival of all")


async def test_nothing_is_sent_while_the_circuit_is_open(database_url: str) -> None:
    fill(database_url, tickets(5), 5)
    receiver = Receiver(
        answer=lambda row: Unreachable(error="Refused: connection"), reachable=lambda name: False
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: worker.metric("outbox_circuit_open") == 1, "an open circuit")
        tried = len(receiver.sent)
        fill(database_url, tickets(5), 1)
        await until(lambda: worker.metric("outbox_pending") == 30, "the new rows being counted")
        assert len(receiver.sent) == tried


async def test_part_of_the_far_side_that_is_away_costs_no_attempt_and_holds_up_no_other(
    database_url: str,
) -> None:
    ticket, healthy = tickets(2)
    fill(database_url, [ticket], 2)
    away = True
    receiver = Receiver(
        answer=lambda row: None if away and row.aggregate_id == ticket else Acknowledged(),
        part_of=lambda key: "away" if key == str(ticket) else "healthy",
        count_parts=2,
    )
    settings = replace(SETTINGS, max_attempts=1)
    async with working(database_url, OUTBOX, receiver, settings) as worker:
        for times in range(1, 6):
            await until(lambda: len(receiver.hanging) == 1, "row under way")
            fill(database_url, [healthy], 1)
            await until(receiver.has_taken(times), "a row of the other key")
            receiver.let_go(Unreachable(error="_MSG_TIMED_OUT: no leader"))
        assert "circuit_opened" not in worker.log.getvalue()
        away = False
        await until(receiver.has_taken(5 + 2), "all rows")
    assert receiver.order_of(ticket) == [1, 2]
    assert count(database_url, "SELECT count(*) FROM outbox_parked") == 0
    assert count(database_url, "SELECT count(*) FROM outbox_dead") == 0


async def test_row_that_alone_finds_the_far_side_away_is_parked_at_last(database_url: str) -> None:
    poisoned, healthy = tickets(2)
    fill(database_url, [poisoned], 1)
    receiver = Receiver(
        answer=lambda row: (
            Unreachable(error="Reset: connection")
            if row.aggregate_id == poisoned
            else Acknowledged()
        ),
        # As slow as a time-out, so that others get through while it is under way.
        delay_seconds=lambda row: 0.4 if row.aggregate_id == poisoned else 0.0,
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        sequence = 0

        def buried_while_others_flow() -> bool:
            nonlocal sequence
            sequence += 1
            fill(database_url, [healthy], 1)
            return len(receiver.buried) == 1

        await until(buried_while_others_flow, "the burial of the row", 40.0)
        assert receiver.buried[0][1].error == "Reset: connection"
        await until(lambda: len(receiver.arrived) == sequence, "the rows of the other key")
        assert worker.metric("outbox_rejected_total") == SETTINGS.max_attempts


async def test_receiver_that_hangs_holds_back_no_other_receiver(database_url: str) -> None:
    ids = tickets(40)
    fill(database_url, ids, 5, receivers=("hanging", "fine"))
    small = replace(SETTINGS, lane_rows=32, lane_in_flight=8, read_rows=16)
    receiver = Receiver(answer=lambda row: None if row.receiver == "hanging" else Acknowledged())
    async with working(database_url, DELIVERY, receiver, small) as worker:
        await until(lambda: len(receiver.arrived) == 200, "all rows of the other receiver")
        assert {row.receiver for row in receiver.arrived} == {"fine"}
        assert 1 <= len(receiver.hanging) <= 8
        receiver.answer = lambda row: Acknowledged()
        receiver.let_go(Acknowledged())
        await until(lambda: len(receiver.arrived) == 400, "the rows that hung")
        for ticket in ids:
            for name in ("hanging", "fine"):
                order = [
                    row.sequence
                    for row in receiver.arrived
                    if (row.aggregate_id, row.receiver) == (ticket, name)
                ]
                assert order == [1, 2, 3, 4, 5]
        await worker.stopped()
    assert count(database_url, "SELECT count(*) FROM delivery") == 0
    assert count(database_url, "SELECT count(*) FROM delivery_done") == 400
    assert receiver.twice_under_way == []


async def test_row_that_becomes_visible_late_is_found(database_url: str) -> None:
    """A transaction draws a low id, a later one commits first: the low id is no gap for ever."""
    late, early = tickets(2)
    while bucket_of(str(early)) != bucket_of(str(late)):
        [early] = tickets(1)
    receiver = Receiver()
    with psycopg.connect(database_url) as open_transaction:
        insert(open_transaction, late, 1)
        fill(database_url, [early], 1)
        async with working(database_url, OUTBOX, receiver) as worker:
            await until(lambda: len(receiver.arrived) == 1, "the row with the higher id")
            await until(
                lambda: worker.metric("outbox_pending") == 0 and count(database_url, PENDING) == 0,
                "the deletion of the first row",
            )
            open_transaction.commit()
            await until(lambda: len(receiver.arrived) == 2, "the row that came late")
            assert receiver.order_of(late) == [1]


async def test_late_row_arrives_before_the_later_rows_of_its_key(database_url: str) -> None:
    """The usual race: a low id is committed after a higher one was read, and the ticket is changed
    at once. The change has a higher id still, and must not overtake."""
    late, early = tickets(2)
    while bucket_of(str(early)) != bucket_of(str(late)):
        [early] = tickets(1)
    receiver = Receiver()
    async with working(database_url, OUTBOX, receiver):
        for turn in range(1, 31):
            with psycopg.connect(database_url) as slow:
                insert(slow, late, 2 * turn - 1)
                fill(database_url, [early], 1)
                await until(receiver.has_taken(3 * turn - 2), "row with the higher id")
            with psycopg.connect(database_url) as fast:
                insert(fast, late, 2 * turn)
            await until(receiver.has_taken(3 * turn), "rows of the key")
    assert receiver.order_of(late) == list(range(1, 61))


async def test_rows_are_read_after_the_ids_have_gone_back(database_url: str) -> None:
    """A failover to a standby that lacked the latest commits: new rows get ids drawn before."""
    fill(database_url, tickets(200), 1)
    receiver = Receiver()
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.arrived) == 200, "the rows before")
        await until(
            lambda: worker.drain._reading.has_read_all and count(database_url, PENDING) == 0,
            "a settled horizon and an empty table",
        )
        count(database_url, "SELECT setval('outbox_id_seq', 100)")
        fill(database_url, tickets(50), 1)
        await until(lambda: len(receiver.arrived) == 250, "the rows after")


async def test_stopping_finishes_what_is_under_way_and_frees_the_buckets(database_url: str) -> None:
    fill(database_url, tickets(10), 2)
    receiver = Receiver(answer=lambda row: None)
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 10, "ten rows under way")
        worker.stop.set()
        await asyncio.sleep(0)
        receiver.let_go(Acknowledged())
        await worker.task
    assert len(receiver.sent) == 10
    assert count(database_url, PENDING) == 10
    assert count(database_url, "SELECT count(*) FROM outbox_bucket WHERE owner IS NULL") == 64
    assert count(database_url, "SELECT count(*) FROM outbox_worker") == 0


async def test_last_attempt_waits_for_no_backoff(database_url: str) -> None:
    fill(database_url, tickets(1), 1)
    patient = replace(
        SETTINGS, max_attempts=1, retry=Backoff(base_seconds=600.0, cap_seconds=600.0)
    )
    receiver = Receiver(answer=lambda row: Rejected(error="No: no"))
    async with working(database_url, OUTBOX, receiver, patient):
        await until(lambda: len(receiver.buried) == 1, "the burial")
