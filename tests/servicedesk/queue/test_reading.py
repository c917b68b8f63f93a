"""What a read passes over is not read again and again, and is not forgotten either."""

import time
from dataclasses import replace
from uuid import uuid4

from servicedesk.backoff import Backoff
from servicedesk.database import create_pool
from servicedesk.queue.backlog import Backlog
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.reading import Reading
from servicedesk.queue.row import Unreachable
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY
from tests.servicedesk.queue.harness import (
    SETTINGS,
    Receiver,
    count,
    fill,
    no_parts,
    tickets,
    until,
    working,
)

AWAY = Backoff(base_seconds=60.0, cap_seconds=60.0)


async def test_backlog_of_a_receiver_that_is_away_is_passed_over_once(database_url: str) -> None:
    lines = Lines(
        lane_rows=8, create_circuit=lambda: Circuit(AWAY, now=time.monotonic, random=lambda: 0.5)
    )
    ticket = uuid4()
    fill(database_url, [ticket], 100, receivers=("away",))
    newest = count(database_url, "SELECT max(id) FROM delivery")
    [bucket] = [lines.buckets[count(database_url, "SELECT DISTINCT bucket FROM delivery")]]
    bucket.gain(epoch=1)
    lines.lane("away").circuit.trip("away")
    async with create_pool(
        database_url, application="test", minimum=1, maximum=2, wait_seconds=2
    ) as pool:
        store = QueueStore(Statements(pool, DELIVERY))
        few = replace(SETTINGS, read_rows=16)
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
        await until(lambda: worker.metric("delivery_pending") == 200, "count of what waits")
        is_away = False
        await until(receiver.has_taken(400), "the rows that waited")
        await until(lambda: worker.metric("delivery_pending") == 0, "count of nothing")
    for ticket in ids:
        for name in ("away", "fine"):
            arrived = [
                r for r in receiver.arrived if (r.aggregate_id, r.receiver) == (ticket, name)
            ]
            assert [row.sequence for row in arrived] == list(range(1, 11))
