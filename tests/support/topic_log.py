"""The whole log of a topic, as a consumer sees that reads only what is committed."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

READ_RECORDS = 10_000
END_SECONDS = 10.0

# The offset after the last record of each partition.
Ends = Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRecord:
    """One record that is an event. Times are of the day's clock; `produced_at` is the sender's."""

    event_id: str
    ticket: str
    sequence: int
    partition: int
    offset: int
    committed_at: float
    produced_at: float

    @property
    def seconds(self) -> float:
        """From the commit of the ticket until it was sent for the last time."""
        return self.produced_at - self.committed_at


def read_topic(brokers: str, topic: str, seconds: float = 60.0) -> list[TopicRecord]:
    """Every event in the topic up to its end at the moment of the call, by partition in order of
    offsets; what is no event is left out. Fails when the end is not reached in time."""
    consumer = _reader(brokers)
    try:
        ends = _watermarks(consumer, topic)
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
                    records.append(_record(message, partition, offset))
                if offset >= ends[partition][1] - 1:
                    left.discard(partition)
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def topic_ends(brokers: str, topic: str) -> Ends:
    consumer = _reader(brokers)
    try:
        return {number: high for number, (_, high) in _watermarks(consumer, topic).items()}
    finally:
        consumer.close()


def wait_record(brokers: str, topic: str, since: Ends, seconds: float = 30.0) -> None:
    """Until the first record that came after that moment."""
    consumer = _reader(brokers)
    try:
        consumer.assign([TopicPartition(topic, number, end) for number, end in since.items()])
        deadline = time.monotonic() + seconds
        while (message := consumer.poll(0.2)) is None or message.error() is not None:
            assert time.monotonic() < deadline, f"{topic}: no record comes"
    finally:
        consumer.close()


def stale_copies(log: Iterable[TopicRecord], since: Ends, until: Ends) -> int:
    """How many records between two moments came after a newer one of their ticket. `log` is the
    whole topic, by partition in order of offsets."""
    newest: dict[str, int] = {}
    stale = 0
    for record in log:
        known = newest.get(record.ticket, 0)
        is_asked_for = since[record.partition] <= record.offset < until[record.partition]
        stale += is_asked_for and record.sequence < known
        newest[record.ticket] = max(known, record.sequence)
    return stale


def _reader(brokers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
    )


def _watermarks(consumer: Consumer, topic: str) -> dict[int, tuple[int, int]]:
    known = consumer.list_topics(topic, timeout=END_SECONDS).topics[topic].partitions
    return {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=END_SECONDS)
        for number in known
    }


def _record(message: Message, partition: int, offset: int) -> TopicRecord:
    envelope = orjson.loads(message.value() or b"")
    return TopicRecord(
        event_id=envelope["event_id"],
        ticket=envelope["aggregate_id"],
        sequence=envelope["sequence"],
        partition=partition,
        offset=offset,
        committed_at=datetime.fromisoformat(envelope["occurred_at"]).timestamp(),
        produced_at=message.timestamp()[1] / 1000,
    )
