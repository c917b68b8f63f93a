"""The whole log of a topic, as a consumer sees that reads only what is committed."""

import time
from contextlib import suppress
from dataclasses import dataclass

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

READ_RECORDS = 10_000
END_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord:
    """One record that is an event."""

    event_id: str
    ticket: str
    sequence: int
    partition: int
    offset: int


def read_topic(brokers: str, topic: str, seconds: float = 60.0) -> list[TopicRecord]:
    """Every event in the topic up to its end at the moment of the call, by partition in order of
    offsets; what is no event is left out. Fails when the end is not reached in time."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )
    try:
        known = consumer.list_topics(topic, timeout=END_SECONDS).topics[topic].partitions
        ends = {
            number: consumer.get_watermark_offsets(
                TopicPartition(topic, number), timeout=END_SECONDS
            )
            for number in known
        }
        left = {number for number, (low, high) in ends.items() if high > low}
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        records: list[TopicRecord] = []
        deadline = time.monotonic() + seconds
        while left:
            assert time.monotonic() < deadline, f"{topic}: partitions {left} do not end"
            for message in consumer.consume(READ_RECORDS, timeout=0.2):
                error = message.error()
                assert error is None or error.retriable(), error
                if error is not None:
                    continue
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                with suppress(orjson.JSONDecodeError):
                    records.append(_record(message.value() or b"", partition, offset))
                if offset >= ends[partition][1] - 1:
                    left.discard(partition)
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _record(value: bytes, partition: int, offset: int) -> TopicRecord:
    envelope = orjson.loads(value)
    return TopicRecord(
        event_id=envelope["event_id"],
        ticket=envelope["aggregate_id"],
        sequence=envelope["sequence"],
        partition=partition,
        offset=offset,
    )
