"""Fills a topic with events as relayd publishes them: envelope, key, CloudEvents headers."""

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from confluent_kafka import KafkaError, Message, Producer

from bench.queues.rows import TICKETS, WINDOW, tails
from bench.queues.steady import uuid7
from servicedesk.event import Event, envelope, kafka_headers

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
REQUEST_ID = "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"


def prefill(brokers: str, topic: str, events: int, size: int) -> None:
    """The events of `rows.py`, in the same order. Raises RuntimeError when one is not taken."""
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "queue.buffering.max.messages": 200_000,
        }
    )
    failed: list[str] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed.append(error.str())

    ends, began = tails(size), time.time()
    for number in range(events):
        event = event_of(number, ends, began + number / 10_000)
        headers: list[tuple[str, Any]] = list(kafka_headers(event))
        key, value = str(event.aggregate_id).encode(), envelope(event)
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
            except BufferError:
                producer.poll(0.1)
            else:
                break
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(60) or failed:
        raise RuntimeError(f"the topic could not be filled: {failed[:1]}")


def event_of(number: int, ends: list[str], moment: float) -> Event:
    place = number % WINDOW
    ticket = UUID(int=number // WINDOW << 96 | 7 << 76 | 2 << 62 | place % TICKETS)
    return Event(
        event_id=uuid7(moment),
        event_type="ticket.created" if place < TICKETS else "ticket.updated",
        occurred_at=datetime.fromtimestamp(moment, UTC),
        aggregate_id=ticket,
        sequence=1 + place // TICKETS,
        request_id=REQUEST_ID,
        traceparent=TRACEPARENT,
        payload=f'{{"id":"{ticket}",{ends[number % len(ends)]}',
    )
