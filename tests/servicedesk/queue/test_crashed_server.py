"""The server crashes, and draws ids again that it had drawn before: no row may be passed over."""

import asyncio
import signal
import uuid
from contextlib import ExitStack

import psycopg

from deploy.local.postgres import Postgres
from servicedesk.backoff import Backoff
from servicedesk.database import create_pool
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.reading import Reading
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.statements import Statements
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import OUTBOX
from tests.servicedesk.queue.harness import no_parts

BUCKET = 7
RETRY = Backoff(base_seconds=0.1, cap_seconds=1.0)
SETTINGS = DrainSettings(
    lease_seconds=10, send_seconds=1, drain_seconds=1, max_attempts=3, retry=RETRY
)
INSERT = f"""
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
VALUES ({BUCKET}, %s, 1, gen_random_uuid(), 'ticket.created', '{{}}', '{{}}') RETURNING id
"""
DRAW_MANY = "SELECT nextval('outbox_id_seq') FROM generate_series(1, 5000)"
KEEP_UNWRITTEN = ("ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()")


def insert(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    (row,) = connection.execute(INSERT.encode(), (uuid.uuid4(),)).fetchall()
    return int(str(row[0]))


def test_rows_under_ids_that_were_drawn_before_a_crash_are_all_read(own_postgres: Postgres) -> None:
    url = own_postgres.url()
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in KEEP_UNWRITTEN:
            connection.execute(statement.encode())

    async def work() -> None:
        lines = Lines(SETTINGS, lambda: Circuit(RETRY, lambda: 0, lambda: 0))
        lines.buckets[BUCKET].gain(1)
        pool = create_pool(url, application="test", minimum=1, maximum=1, wait_seconds=10)
        async with pool:
            store = QueueStore(Statements(pool, OUTBOX))
            parking = Parking(lambda: 0)
            reading = Reading(
                store=store,
                lines=lines,
                parking=parking,
                parts=no_parts(lines),
                settings=SETTINGS,
            )
            lost = psycopg.connect(url)
            insert(lost)
            newest_id = int(str(lost.execute(DRAW_MANY.encode()).fetchall()[-1][0]))
            await reading.raise_horizon()
            own_postgres.stop(signal.SIGQUIT)
            lost.close()
            own_postgres.start()
            own_postgres.wait_ready()
            with ExitStack() as stack:
                slow, quick = (stack.enter_context(psycopg.connect(url)) for _ in range(2))
                late = insert(slow)
                assert late < newest_id, "the crash has lost nothing"
                # By the time that somebody looks, the sequence is where it was.
                early = insert(quick)
                quick.execute(DRAW_MANY.encode())
                quick.commit()
                await again(reading)
                await again(reading)
                slow.commit()
            await again(reading)
            await store.close()
            assert lines.buckets[BUCKET].known == {late, early}

    async def again(reading: Reading) -> None:
        """A turn of the drain; a connection from before the crash costs it an error."""
        for _ in range(2):
            try:
                await reading.raise_horizon()
                await reading.read()
            except psycopg.OperationalError:
                continue

    asyncio.run(work())
