"""Events, records and queued rows for the tests of notifyd."""

import io
import itertools
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson
import psycopg
from confluent_kafka import Consumer, Message, Producer

from notifyd.config import KafkaSettings
from notifyd.dead_letters import DeadLetterProducer, DeadLetters
from notifyd.record import Record, Rest
from servicedesk.database import create_pool
from servicedesk.event import Event, envelope, kafka_headers
from servicedesk.logs import Log
from servicedesk.queue.row import QueuedRow, queue_key
from servicedesk.queue.statements import Pool
from tests.support.processes import wait_until

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TITLE = "Принтер 🖨️ не печатает — שלום עולם"
SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

Result = TypeVar("Result")
_ids = itertools.count(1)


def ticket(ticket_id: UUID, **members: object) -> dict[str, Any]:
    return {
        "id": str(ticket_id),
        "title": TITLE,
        "description": "Второй этаж,\nкомната 12 <script>alert(1)</script>",
        "status": "new",
        "priority": "high",
        "requester": "anna@example.org",
        "assignee": None,
        "version": 1,
        "created_at": "2026-03-01T12:30:00.000000Z",
        "updated_at": "2026-03-01T12:30:00.000000Z",
        "closed_at": None,
        **members,
    }


def event(
    ticket_id: UUID,
    sequence: int = 1,
    *,
    event_type: str = "ticket.created",
    event_id: UUID | None = None,
    **members: object,
) -> Event:
    return Event(
        event_id=event_id or uuid4(),
        event_type=event_type,
        occurred_at=MOMENT,
        aggregate_id=ticket_id,
        sequence=sequence,
        request_id="request-1",
        traceparent=TRACEPARENT,
        payload=orjson.dumps(ticket(ticket_id, version=sequence, **members)).decode(),
    )


def record(
    found: Event | bytes, *, topic: str = "tickets.events", partition: int = 0, offset: int = 0
) -> Record:
    rest = Rest(
        key=str(found.aggregate_id).encode() if isinstance(found, Event) else b"?",
        timestamp_ms=1_772_368_200_000,
        headers=kafka_headers(found) if isinstance(found, Event) else [],
    )
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        value=envelope(found) if isinstance(found, Event) else found,
        rest=lambda: rest,
    )


def queued_row(
    found: Event | None = None, *, receiver: str = "webhook", payload: str | None = None
) -> QueuedRow:
    found = found or event(uuid4())
    headers = {
        "topic": "tickets.events",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_772_368_200_000,
        "traceparent": found.traceparent,
        "request_id": found.request_id,
    }
    return QueuedRow(
        bucket=0,
        id=next(_ids),
        receiver=receiver,
        sequence=found.sequence,
        event_id=str(found.event_id),
        event_type=found.event_type,
        headers=orjson.dumps(headers).decode(),
        payload=envelope(found) if payload is None else payload.encode(),
        created_at=MOMENT,
        key=queue_key(found.aggregate_id, receiver),
    )


def dead_letters_at(brokers: str, name: str, *, seconds: float = 10.0) -> DeadLetters:
    """On the topic `name`.dlq; gives a dead letter up after `seconds`."""
    settings = KafkaSettings(
        brokers=brokers,
        topic=name,
        dlq_topic=f"{name}.dlq",
        group_id=name,
        client_id="notifyd",
        fetch_wait_ms=10,
        session_ms=6000,
    )
    return DeadLetters(DeadLetterProducer(settings, delivery_seconds=seconds))


class Lines(io.StringIO):
    """A stream for a Log whose lines can be read back."""

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        found = [orjson.loads(line) for line in self.getvalue().splitlines()]
        return [each for each in found if name is None or each["event"] == name]


def log_to(lines: Lines) -> Log:
    return Log("notifyd", level="debug", stream=lines)


async def with_pool(url: str, act: Callable[[Pool], Awaitable[Result]]) -> Result:
    pool = create_pool(url, application="test", minimum=1, maximum=4, wait_seconds=5)
    await pool.open()
    try:
        return await act(pool)
    finally:
        await pool.close()


def fetch(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def execute(url: str, statement: str, *parameters: object) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode(), parameters)


def produce(brokers: str, topic: str, found: Sequence[Event | bytes]) -> None:
    """As relayd would: keyed by ticket, with its headers; returns when the cluster has it."""
    producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random"})
    for each in found:
        if isinstance(each, Event):
            key, value = str(each.aggregate_id).encode(), envelope(each)
            producer.produce(topic, key=key, value=value, headers=list(kafka_headers(each)))
        else:
            producer.produce(topic, key=b"garbage", value=each)
    assert producer.flush(20) == 0


def read_topic(brokers: str, topic: str, group: str, count: int) -> list[Message]:
    """The first `count` records of a topic, of all its partitions."""
    settings = {
        "bootstrap.servers": brokers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
        "enable.auto.commit": False,
    }
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    messages: list[Message] = []

    def enough() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            messages.append(message)
        return len(messages) >= count

    try:
        wait_until(enough, 20, f"{count} records on {topic}")
    finally:
        consumer.close()
    return messages


def headers_of(message: Message) -> dict[str, str]:
    headers = message.headers() or []
    assert isinstance(headers, list)
    return {name: (value or b"").decode() for name, value in headers if isinstance(value, bytes)}
