"""All three daemons as processes on real servers, with names of their own on the Kafka cluster."""

import asyncio
import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import psycopg

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import queue_key
from tests.support.checker import Accepted, Verdict, judge, watch
from tests.support.load import Load, run_load
from tests.support.processes import Daemon, wait_until
from tests.support.topic_log import TopicRecord, read_topic
from tests.support.webhooks import WebhookReceiver

# Short leases and waits, so that a take-over fits into a test.
QUICK = {
    "RELAYD_LEASE": "5s",
    "RELAYD_DELIVERY_TIMEOUT": "1s",
    "RELAYD_RETRY_BASE": "50ms",
    "RELAYD_RETRY_CAP": "200ms",
    "NOTIFYD_LEASE": "5s",
    "NOTIFYD_WEBHOOK_TIMEOUT": "2s",
    "NOTIFYD_RETRY_BASE": "50ms",
    "NOTIFYD_RETRY_CAP": "200ms",
    "NOTIFYD_SESSION_TIMEOUT": "6s",
    "NOTIFYD_FETCH_WAIT": "20ms",
}

# Where nothing is to be sent twice: a stall of a busy machine is not to be taken for an outage.
PATIENT = {
    "RELAYD_LEASE": "20s",
    "RELAYD_DELIVERY_TIMEOUT": "6s",
    "NOTIFYD_LEASE": "40s",
    "NOTIFYD_WEBHOOK_TIMEOUT": "15s",
}

INSERT = """
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
VALUES (%s, %s, %s, %s, 'ticket.updated', '{}', %s)
"""

FILL = """
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, ticket, number, gen_random_uuid(), 'ticket.updated', '{}', '{"title": "событие"}'
FROM generate_series(1, %(events)s) AS number,
     unnest(%(buckets)s::int2[], %(tickets)s::uuid[]) AS given(bucket, ticket)
ORDER BY number
"""


class Pipeline:
    """Start what a test needs; everything is killed at the end of the `with`."""

    def __init__(
        self,
        *,
        database_url: str,
        kafka_brokers: str,
        name: str,
        receivers: Mapping[str, WebhookReceiver],
        directory: Path,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.database_url = database_url
        self.receivers = receivers
        self._directory = directory
        self._daemons: list[Daemon] = []
        watch(database_url)
        secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self.environment = {
            "DATABASE_URL": database_url,
            "KAFKA_BROKERS": kafka_brokers,
            "KAFKA_TOPIC": f"{name}.events",
            "KAFKA_DLQ_TOPIC": f"{name}.dlq",
            "KAFKA_GROUP_ID": name,
            "NOTIFYD_CHANNELS": "webhook",
            "NOTIFYD_WEBHOOK_URL": ",".join(f"{k}={r.url}" for k, r in receivers.items()),
            "NOTIFYD_WEBHOOK_SECRET": f"whsec_{secret}",
            **QUICK,
            **(settings or {}),
        }

    def daemon(self, module: str, settings: Mapping[str, str] | None = None) -> Daemon:
        """Start one more copy; does not wait until it is ready."""
        environment = self.environment | dict(settings or {})
        daemon = Daemon(module, environment, directory=self._directory)
        self._daemons.append(daemon)
        return daemon.start()

    def start(self, *modules: str) -> list[Daemon]:
        """Start daemons side by side and wait until all are ready."""
        daemons = [self.daemon(module) for module in modules]
        for daemon in daemons:
            daemon.wait_ready(30)
        return daemons

    def insert(self, ticket: UUID, sequences: range, payload: str = '{"title": "событие"}') -> None:
        """Events of a ticket straight into the outbox, as ticketd would write them."""
        bucket = bucket_of(queue_key(ticket))
        with psycopg.connect(self.database_url) as connection:
            for sequence in sequences:
                connection.execute(INSERT, (bucket, ticket, sequence, uuid4(), payload))

    def fill(self, tickets: int, events: int) -> list[Accepted]:
        """`events` events for each of `tickets` new tickets, committed at once; what was
        accepted."""
        ids = [uuid4() for _ in range(tickets)]
        buckets = [bucket_of(queue_key(ticket)) for ticket in ids]
        with psycopg.connect(self.database_url) as connection:
            connection.execute(FILL, {"buckets": buckets, "tickets": ids, "events": events})
        return [(str(ticket), n) for ticket in ids for n in range(1, events + 1)]

    def count(self, statement: str) -> int:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            row = connection.execute(statement.encode()).fetchone()
        return int(str(row[0])) if row else 0

    def wait_delivered(self, name: str, events: int, seconds: float) -> None:
        """Until the receiver has `events` different events and no row is left of them."""
        receiver = self.receivers[name]
        wait_until(
            lambda: len({delivery.webhook_id for delivery in receiver.deliveries}) >= events,
            seconds,
            lambda: f"delivery of {events} events to {name}; {self.state()}",
        )

    def wait_empty(self, seconds: float = 10.0) -> None:
        """Until both queues are empty: every deletion has been committed."""
        wait_until(
            lambda: (
                self.count("SELECT count(*) FROM outbox") == 0
                and self.count("SELECT count(*) FROM delivery") == 0
            ),
            seconds,
            "end of both queues",
        )

    def state(self) -> str:
        tables = ("outbox", "outbox_dead", "inbox", "delivery", "delivery_done", "delivery_dead")
        counts = {table: self.count(f"SELECT count(*) FROM {table}") for table in tables}
        return ", ".join(f"{table} {count}" for table, count in counts.items())

    def judge_topic(self, accepted: list[Accepted]) -> Verdict:
        return judge(
            accepted,
            self.database_url,
            topic=read_topic(self.environment["KAFKA_BROKERS"], self.environment["KAFKA_TOPIC"]),
        )

    def judge(
        self, accepted: list[Accepted], name: str, *, former: Sequence[TopicRecord] = ()
    ) -> Verdict:
        """`former` is what the topic held before it was made again."""
        held = read_topic(self.environment["KAFKA_BROKERS"], self.environment["KAFKA_TOPIC"])
        return judge(
            accepted,
            self.database_url,
            topic=[*former, *held],
            deliveries=self.receivers[name].deliveries,
            receiver=f"webhook:{name}",
        )

    def load(
        self,
        ticketd: Daemon,
        *,
        tickets: int,
        events: int,
        rate: float | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Load:
        """See `run_load`."""
        work = run_load(ticketd.url, tickets=tickets, events=events, rate=rate, enough=enough)
        return asyncio.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for daemon in self._daemons:
            daemon.kill()
