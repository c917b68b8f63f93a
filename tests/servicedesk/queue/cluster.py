"""A far side of four parts that may be away one by one, as partitions of a topic may be."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Unreachable
from tests.servicedesk.queue import harness
from tests.servicedesk.queue.harness import SETTINGS, Receiver, Worker, tickets

PARTS = 4
# What a busy machine may take for what needs a tenth of it.
BUSY_SECONDS = 40.0
# Far fewer rows in memory than wait for a part, which need not mean many.
SMALL = replace(SETTINGS, lane_rows=64, lane_in_flight=32, read_rows=64, max_attempts=1)
NO_LEADER = Unreachable(error="_MSG_TIMED_OUT: no leader")
PENDING = "SELECT count(*) FROM outbox"
PARKED = "SELECT count(*) FROM outbox_parked"


async def until(condition: Callable[[], bool], what: str, seconds: float = BUSY_SECONDS) -> None:
    """The same as the harness's; here much waits for time-outs, one after another."""
    await harness.until(condition, what, seconds)


def part_of(key: str) -> str:
    return f"part {int(key[-1], 16) % PARTS}"


class Cluster:
    """Parts that are `away` let a row wait for a while, as a time-out does, and then fail it."""

    def __init__(
        self, *away: int, poisoned: UUID | None = None, time_out_seconds: float = 0.05
    ) -> None:
        self._time_out_seconds = time_out_seconds
        self.away = {f"part {number}" for number in away}
        self.poisoned = poisoned
        self.receiver = Receiver(
            answer=self.answer,
            delay_seconds=self.delay_seconds,
            part_of=part_of,
            count_parts=PARTS,
        )

    def answer(self, row: QueuedRow) -> Outcome:
        return NO_LEADER if self.is_lost(row) else Acknowledged()

    def delay_seconds(self, row: QueuedRow) -> float:
        return self._time_out_seconds if self.is_lost(row) else 0.0

    def is_lost(self, row: QueuedRow) -> bool:
        return part_of(row.key) in self.away or row.aggregate_id == self.poisoned

    def arrived_all(self, ids: list[UUID], events: int) -> Callable[[], bool]:
        wanted = len(ids) * events
        mine = set(ids)
        return lambda: sum(row.aggregate_id in mine for row in self.receiver.arrived) >= wanted

    def in_order(self, ids: list[UUID]) -> bool:
        newest: dict[UUID, int] = {}
        for row in self.receiver.arrived:
            if newest.get(row.aggregate_id, 0) >= row.sequence:
                return False
            newest[row.aggregate_id] = row.sequence
        return set(newest) == set(ids) and not self.receiver.twice_under_way


def of_part(*parts: int, many: int) -> list[UUID]:
    found: list[UUID] = []
    while len(found) < many:
        found += [each for each in tickets(many) if int(str(each)[-1], 16) % PARTS in parts]
    return found[:many]


def of_bucket(ticket: UUID, part: int, *, many: int) -> list[UUID]:
    """Tickets of a part that share the bucket of another."""
    found: list[UUID] = []
    while len(found) < many:
        some = of_part(part, many=1000)
        found += [each for each in some if bucket_of(str(each)) == bucket_of(str(ticket))]
    return found[:many]


class Reads:
    """What a worker reads from now on, in rows of each read."""

    def __init__(self, worker: Worker) -> None:
        self.rows: list[int] = []
        store = worker.drain._reading._store.rows
        read = store.read

        async def counted(*args: Any, **kwargs: Any) -> list[QueuedRow]:
            found = await read(*args, **kwargs)
            self.rows.append(len(found))
            return found

        store.read = counted  # type: ignore[method-assign]
