"""Reading what arrived in Kafka, by assignment: a group join would take seconds."""

import time
from uuid import UUID

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from tests.support.processes import wait_until


def consume(brokers: str, topic: str, count: int, seconds: float = 20.0) -> list[Message]:
    """The first `count` records of a topic, in order per partition; fails after `seconds`."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "unused",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
            "log_level": 2,
        }
    )
    try:
        partitions = wait_until(lambda: partitions_of(consumer, topic), seconds, f"topic {topic}")
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        found: list[Message] = []
        deadline = time.monotonic() + seconds
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records in {topic}"
            found += [m for m in consumer.consume(count - len(found), 0.1) if m.error() is None]
        return found
    finally:
        consumer.close()


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Empty while there is no such topic: asking does not create it."""
    return list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)


def newest_offsets(brokers: str, topic: str) -> int:
    """How many records the topic holds."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "unused", "log_level": 2})
    try:
        found = [TopicPartition(topic, p) for p in partitions_of(consumer, topic)]
        marks = [consumer.get_watermark_offsets(partition) for partition in found]
        return sum(high - low for low, high in marks)
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    pairs = message.headers() or []
    return {
        name: value.decode() if isinstance(value, bytes) else str(value)
        for name, value in (pairs.items() if isinstance(pairs, dict) else pairs)
    }


def event_ids(messages: list[Message]) -> list[UUID]:
    return [UUID(headers_of(message)["ce_id"]) for message in messages]
