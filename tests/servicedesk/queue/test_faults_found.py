"""Faults that a review of the queue found, each as the smallest course of events that shows it."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit, urlunsplit

import psycopg

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import (
    Acknowledged,
    Outcome,
    QueuedRow,
    Rejected,
    Unreachable,
    queue_key,
)
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


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def neighbours(number: int, amount: int, receiver: str = "") -> list[uuid.UUID]:
    """Tickets whose keys fall into one bucket, so that they share its floors."""
    made = (uuid.uuid4() for _ in itertools.count())
    fitting = (ticket for ticket in made if bucket_of(queue_key(ticket, receiver)) == number)
    return list(itertools.islice(fitting, amount))


async def passed_by(
    url: str, receiver: Receiver, others: Sequence[uuid.UUID], to: str = ""
) -> None:
    """Let new rows through, one after another, so that the floors rise above what was before."""
    for ticket in others:
        taken = len(receiver.arrived)
        fill(url, [ticket], 1, receivers=[to])
        await until(receiver.has_taken(taken + 1), "a row of another key")


async def test_key_parked_again_while_it_is_being_freed_stays_in_order(database_url: str) -> None:
    """Row 1 succeeds on its retry and row 2 is refused before the table learned that the key is
    free: the key has to wait for row 2 in memory, too, when row 3 comes."""
    [ticket] = tickets(1)
    fill(database_url, [ticket], 2)
    refused: list[int] = []

    def answer(row: QueuedRow) -> Outcome:
        if row.sequence in {1, 2} and row.sequence not in refused:
            refused.append(row.sequence)
            wait = 1.0 if row.sequence == 2 else None
            return Rejected(error="Refused: not today", retry_after_seconds=wait)
        return Acknowledged()

    receiver = Receiver(answer=answer)
    late_refresh = replace(SETTINGS, refresh_seconds=30.0)
    async with working(database_url, OUTBOX, receiver, late_refresh):
        second = "SELECT count(*) FROM outbox_parked WHERE first_id = 2"
        await until(lambda: count(database_url, second) == 1, "parked second row")
        with psycopg.connect(database_url, autocommit=True) as connection:
            insert(connection, ticket, 3)
        await until(receiver.has_taken(3), "three rows")
    assert receiver.order_of(ticket) == [1, 2, 3]


async def test_key_that_is_freed_before_it_was_due_leaves_no_row_behind(database_url: str) -> None:
    """A row is under way when the table says that its key is parked. What came meanwhile was
    passed over by the reads, and has to be read once the row has arrived."""
    ticket, *others = neighbours(7, 11)
    fill(database_url, [ticket], 1)
    receiver = Receiver()
    receiver.answer = lambda row: (
        None if row.aggregate_id == ticket and row.sequence == 1 else Acknowledged()
    )
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: len(receiver.hanging) == 1, "row under way")
        execute(
            database_url,
            "INSERT INTO outbox_parked (bucket, key, first_id, attempts, next_at, error) "
            "SELECT bucket, aggregate_id::text, id, 1, now() + interval '1 hour', 'Refused: x' "
            "FROM outbox",
        )
        await until(lambda: worker.metric("outbox_parked_keys") == 1, "parked key in memory")
        with psycopg.connect(database_url, autocommit=True) as connection:
            insert(connection, ticket, 2)
        await passed_by(database_url, receiver, others)
        receiver.let_go(Acknowledged())
        await until(lambda: count(database_url, "SELECT count(*) FROM outbox") == 0, "empty table")


@dataclass(slots=True)
class Cable:
    """A TCP way to the database that can be cut: what was connected before stays connected and
    carries nothing any longer, as when a firewall or a failed host forgets a connection."""

    host: str
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    carriers: list[asyncio.Task[None]] = field(default_factory=list)

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        self.writers += [writer, far_writer]
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self.carriers.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(65536):
                sink.write(chunk)
        sink.close()

    def cut(self) -> None:
        for carrier in self.carriers:
            carrier.cancel()
        self.carriers.clear()


@contextlib.asynccontextmanager
async def cabled(url: str) -> AsyncIterator[tuple[str, Cable]]:
    """The address of a database through a cable, and the cable."""
    parts = urlsplit(url)
    cable = Cable(parts.hostname or "", parts.port or 5432)
    server = await asyncio.start_server(cable.join, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    place = parts.netloc.replace(f":{parts.port}", f":{port}")
    try:
        yield urlunsplit(parts._replace(netloc=place)), cable
    finally:
        server.close()
        cable.cut()
        for writer in cable.writers:
            writer.close()


async def test_connections_that_fall_silent_do_not_stop_the_queue_for_ever(
    database_url: str,
) -> None:
    receiver = Receiver()
    async with (
        cabled(database_url) as (url, cable),
        working(url, OUTBOX, receiver, statement_seconds=1.0) as worker,
    ):
        await until(lambda: worker.metric("outbox_buckets") == 64, "leases")
        cable.cut()
        fill(database_url, tickets(5), 2)
        await until(
            lambda: worker.drain.readiness()["database"] != "ok", "drain that says so", 10.0
        )
        await until(receiver.has_taken(10), "the rows", 20.0)
        await until(lambda: worker.drain.readiness()["database"] == "ok", "readiness", 10.0)


async def test_database_that_is_read_only_for_a_while_is_away_and_comes_back(
    database_url: str,
) -> None:
    """What a connection meets on a primary that was just demoted, during a failover."""
    parts = urlsplit(database_url)
    name, beside = parts.path.strip("/"), urlunsplit(parts._replace(path="/postgres"))
    terminate = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'test'"
    )
    receiver = Receiver()
    async with working(database_url, OUTBOX, receiver) as worker:
        await until(lambda: worker.metric("outbox_buckets") == 64, "leases")
        execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        execute(database_url, terminate)
        await until(
            lambda: "ReadOnly" in worker.drain.readiness()["database"] or worker.task.done(),
            "drain that says so",
        )
        execute(beside, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        execute(database_url, terminate)
        with psycopg.connect(database_url) as connection:
            for ticket in tickets(5):
                insert(connection, ticket, 1)
        await until(receiver.has_taken(5), "the rows")


async def test_row_of_a_receiver_set_aside_is_sent_again_after_its_bucket_changed_hands(
    database_url: str,
) -> None:
    """A row is under way when its bucket is lost and regained, and then finds its receiver away:
    it is read again, also by a receiver that is read by itself, from floors of its own."""
    fill(database_url, neighbours(7, 20, "slow"), 1, receivers=["slow"])
    receiver = Receiver(answer=lambda row: None if row.receiver == "slow" else Acknowledged())
    small = replace(SETTINGS, lane_rows=4, lane_in_flight=2, lease_seconds=3.0)
    async with working(database_url, DELIVERY, receiver, small) as worker:
        await until(lambda: len(receiver.hanging) == 2, "rows under way")
        execute(database_url, "UPDATE delivery_bucket SET epoch = epoch + 1")
        await until(lambda: worker.metric("delivery_lease_lost_total") == 64, "lost leases")
        # The rows behind those under way were dropped, and the lane is read again meanwhile.
        await passed_by(database_url, receiver, neighbours(7, 5, "quick"), "quick")
        receiver.reachable = lambda name: False
        receiver.let_go(Unreachable(error="Timeout: none"))
        await passed_by(database_url, receiver, neighbours(7, 10, "quick"), "quick")
        receiver.answer, receiver.reachable = (lambda row: Acknowledged()), (lambda name: True)
        await until(
            lambda: count(database_url, "SELECT count(*) FROM delivery") == 0, "empty table"
        )


async def test_error_text_that_no_table_takes_stops_nothing(database_url: str) -> None:
    """PostgreSQL has neither NUL nor lone surrogates, and anything may be in an error."""
    refused, others = tickets(2), tickets(10)
    fill(database_url, refused, 1)
    errors = iter(["Refused: a\x00b", "Refused: Empf\udce4nger \ud800"] * 20)
    receiver = Receiver(
        answer=lambda row: (
            Rejected(error=next(errors)) if row.aggregate_id in refused else Acknowledged()
        )
    )
    async with working(database_url, OUTBOX, receiver):
        await until(lambda: len(receiver.buried) == 2, "two rows given up")
        fill(database_url, others, 1)
        await until(receiver.has_taken(10), "the rows of others")
        await until(lambda: count(database_url, "SELECT count(*) FROM outbox") == 0, "empty table")
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT error FROM outbox_dead").fetchall()
    assert {error for (error,) in found} <= {r"Refused: a\x00b", r"Refused: Empf\xe4nger \ud800"}


async def test_database_that_is_away_from_the_start_is_told() -> None:
    url = "postgresql://u:p@127.0.0.1:1/db"
    async with working(url, OUTBOX, Receiver(), connect_seconds=2.0) as worker:
        await until(lambda: "database_away" in worker.log.getvalue(), "line about the database")
    assert "database_back" not in worker.log.getvalue()
