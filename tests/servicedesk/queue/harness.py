"""A drain on a real database, into a receiver that the test scripts."""

import asyncio
import contextlib
import io
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from prometheus_client import CollectorRegistry

from servicedesk.backoff import Backoff
from servicedesk.bucket import bucket_of
from servicedesk.database import create_pool
from servicedesk.logs import Log
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.drain import Drain
from servicedesk.queue.lease_store import LeaseStore
from servicedesk.queue.lines import Lines
from servicedesk.queue.metrics import QueueMetrics
from servicedesk.queue.parking import Parking
from servicedesk.queue.parts import Parts
from servicedesk.queue.row import Acknowledged, Failure, Outcome, QueuedRow, queue_key
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import QueueTables
from servicedesk.queue.target import BuryError, Settle

SETTINGS = DrainSettings(
    lease_seconds=1.5,
    send_seconds=0.5,
    drain_seconds=3.0,
    max_attempts=3,
    retry=Backoff(base_seconds=0.02, cap_seconds=0.05),
    poll_max_seconds=0.05,
    refresh_seconds=0.1,
    probe=Backoff(base_seconds=0.02, cap_seconds=0.05),
)

# Another worker takes all leases.
STEAL = """
UPDATE outbox_bucket SET owner = 'thief', epoch = epoch + 1, lease_until = now() + interval '1 hour'
"""


@dataclass(slots=True)
class Receiver:
    """Takes rows as `answer` says; None leaves a row hanging. Remembers what arrived, in order.

    A list of its own, no stand-in for Kafka: the target's contract is all the drain knows.
    """

    answer: Callable[[QueuedRow], Outcome | None] = lambda row: Acknowledged()
    delay_seconds: Callable[[QueuedRow], float] = lambda row: 0.0
    reachable: Callable[[str], bool] = lambda receiver: True
    part_of: Callable[[str], str] = lambda key: ""
    count_parts: int = 0
    bury_error: str | None = None
    arrived: list[QueuedRow] = field(default_factory=list)
    sent: list[QueuedRow] = field(default_factory=list)
    begun_at: list[float] = field(default_factory=list)
    buried: list[tuple[QueuedRow, Failure]] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    hanging: list[tuple[QueuedRow, Settle]] = field(default_factory=list)
    twice_under_way: list[str] = field(default_factory=list)

    def send(self, row: QueuedRow, settle: Settle, begun_at: float) -> None:
        self.sent.append(row)
        self.begun_at.append(begun_at)
        if row.key in self.under_way:
            self.twice_under_way.append(row.key)
        self.under_way.add(row.key)
        outcome = self.answer(row)
        if outcome is None:
            self.hanging.append((row, settle))
            return
        delay = self.delay_seconds(row)
        asyncio.get_running_loop().call_later(delay, self._settle, row, outcome, settle)

    def _settle(self, row: QueuedRow, outcome: Outcome, settle: Settle) -> None:
        self.under_way.discard(row.key)
        if isinstance(outcome, Acknowledged):
            self.arrived.append(row)
        settle(row, outcome)

    def let_go(self, outcome: Outcome) -> None:
        for row, settle in self.hanging:
            self._settle(row, outcome, settle)
        self.hanging.clear()

    def part(self, key: str) -> str:
        return self.part_of(key)

    def parts(self) -> int:
        return self.count_parts

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        if self.bury_error:
            raise BuryError(self.bury_error)
        self.buried.append((row, failure))

    async def probe(self, receiver: str) -> bool:
        return self.reachable(receiver)

    def has_taken(self, least: int) -> Callable[[], bool]:
        return lambda: len(self.arrived) >= least

    def has_sent(self, least: int) -> Callable[[], bool]:
        return lambda: len(self.sent) >= least

    def order_of(self, ticket: uuid.UUID) -> list[int]:
        return [row.sequence for row in self.arrived if row.aggregate_id == ticket]


def no_parts(lines: Lines) -> Parts:
    """For a queue by itself, whose far side has none."""
    return Parts(
        lines=lines,
        parking=Parking(time.monotonic),
        target=Receiver(),
        create_circuit=lambda: Circuit(SETTINGS.probe, now=time.monotonic, random=random.random),
        wake=lambda: None,
        log=Log("test"),
    )


class Worker:
    """A running drain."""

    def __init__(self, drain: Drain, log: io.StringIO, registry: CollectorRegistry) -> None:
        self.drain = drain
        self.log = log
        self.registry = registry
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(drain.run(self.stop))

    async def stopped(self) -> None:
        self.stop.set()
        await self.task

    async def crash(self) -> None:
        """As kill -9: nothing is finished, nothing released."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@contextlib.asynccontextmanager
async def working(
    url: str,
    tables: QueueTables,
    receiver: Receiver,
    settings: DrainSettings = SETTINGS,
    owner: str | None = None,
    *,
    statement_seconds: float = 15.0,
    connect_seconds: float = 15.0,
) -> AsyncIterator[Worker]:
    """A worker that drains until the block ends."""
    log = io.StringIO()
    registry = CollectorRegistry()
    pool = create_pool(url, application="test", minimum=1, maximum=4, wait_seconds=connect_seconds)
    async with pool:
        statements = Statements(pool, tables, statement_seconds)
        drain = Drain(
            store=QueueStore(statements),
            leases=LeaseStore(statements, owner or f"worker-{uuid.uuid4().hex[:8]}"),
            target=receiver,
            settings=settings,
            metrics=QueueMetrics(tables, registry),
            log=Log("test", stream=log),
            random=random.random,
        )
        worker = Worker(drain, log, registry)
        try:
            yield worker
        finally:
            if not worker.task.done():
                await worker.stopped()


async def until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll until the condition holds; fails with `what` after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"after {seconds:g} s there is still no {what}") from None


INSERT = """
INSERT INTO {table} (bucket, {receiver_column} aggregate_id, sequence, event_id, event_type,
                     headers, payload)
VALUES (%s, {receiver_value} %s, %s, %s, 'ticket.updated', '{{}}', %s)
"""


def insert(
    connection: psycopg.Connection[tuple[object, ...]],
    ticket: uuid.UUID,
    sequence: int,
    *,
    receiver: str = "",
    payload: str = "{}",
) -> None:
    """One row of the outbox, or with a receiver one delivery."""
    statement = INSERT.format(
        table="delivery" if receiver else "outbox",
        receiver_column="receiver," if receiver else "",
        receiver_value="%s," if receiver else "",
    )
    key = queue_key(ticket, receiver)
    head: list[object] = [bucket_of(key)] + ([receiver] if receiver else [])
    connection.execute(statement.encode(), [*head, ticket, sequence, uuid.uuid4(), payload])


def tickets(count: int) -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(count)]


def fill(
    url: str,
    ids: Sequence[uuid.UUID],
    events: int,
    *,
    receivers: Sequence[str] = ("",),
    first: int = 1,
) -> None:
    """`events` rows for each ticket and receiver, sequences from `first` on, interleaved over
    tickets."""
    with psycopg.connect(url) as connection:
        for sequence in range(first, first + events):
            for ticket in ids:
                for receiver in receivers:
                    insert(connection, ticket, sequence, receiver=receiver)


def count(url: str, statement: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return int(str(row[0])) if row else 0


def moment(url: str, statement: str) -> datetime:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    if row is None or not isinstance(row[0], datetime):
        raise AssertionError("the statement found no time")
    return row[0]
