"""What is in a topic, seen by nobody's account but the broker's: how many records, and when.

Latency is taken by a consumer of its own: from `occurred_at` in the record, which is the start of
the transaction that wrote the event, until the consumer has the record. The broker shows a record
when its acknowledgement with acks=all is due, so this is an upper bound of commit to
acknowledgement.
"""

import threading
import time
from datetime import datetime

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

MARK = b'"occurred_at":"'
MOMENT_BYTES = len("2025-11-17T09:30:00.123456")


class Watermarks:
    """Counts a topic's records; one request to the broker each time."""

    def __init__(self, brokers: str, topic: str, partitions: int) -> None:
        self._admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        self._wanted = {TopicPartition(topic, number): latest for number in range(partitions)}

    def count(self) -> int:
        answers = self._admin.list_offsets(self._wanted, request_timeout=10)
        return sum(int(answer.result().offset) for answer in answers.values())


class Listener:
    """A consumer on a thread that notes how old each record is when it comes, from `since` on.

    Records of transactions that began before `since` (seconds of the wall clock) are warm-up."""

    def __init__(self, brokers: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": "bench",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.min.bytes": 1,
                "fetch.wait.max.ms": 100,
                "log_level": 0,
            }
        )
        places = [TopicPartition(topic, number, 0) for number in range(partitions)]
        self._consumer.assign(places)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.since = float("inf")
        self.received = 0
        self.milliseconds: list[float] = []
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            first = self._consumer.poll(0.05)
            if first is None:
                continue
            rest = self._consumer.consume(1000, timeout=0)
            now = time.time()
            for message in (first, *rest):
                value = message.value()
                if message.error() is None and value is not None:
                    self._note(value if isinstance(value, bytes) else value.encode(), now)

    def _note(self, value: bytes, now: float) -> None:
        self.received += 1
        began = occurred_at(value)
        if began >= self.since:
            self.milliseconds.append((now - began) * 1000)


def occurred_at(value: bytes) -> float:
    """The envelope's time in seconds since 1970. Raises ValueError."""
    place = value.index(MARK) + len(MARK)
    text = value[place : place + MOMENT_BYTES].decode()
    return datetime.fromisoformat(text + "+00:00").timestamp()
