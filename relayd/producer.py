"""One librdkafka producer: idempotent, acks=all, keys placed where Java clients place them.

Every message handed to `produce` is reported exactly once on the event loop's thread, also when the
producer turns out to be beyond repair (`failure`) and has to be replaced.
"""

import asyncio
import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from relayd.notices import LibrdkafkaHandler, Notices
from relayd.record import Headers
from relayd.verdict import kafka_text

# Delivery reports are fetched on the loop's thread by a timer, not by a thread of their own: that
# thread would have to win the interpreter's lock once a report, and was slower when it was tried.
POLL_SECONDS = 0.002
IDLE_POLL_SECONDS = 0.25
# Small against what a topic accepts: a broker that refuses a batch refuses all rows in it, and each
# has to be sent again alone.
BATCH_BYTES = 131_072
# As many as an idempotent producer may have. Each request of librdkafka is for one partition: one
# by one, a partition's turn comes after the acknowledgements of all others that the broker leads.
REQUESTS_UNDER_WAY = 5
QUEUE_KIBIBYTES = 262_144
LEAST_SOCKET_MS = 2_000
CLOSE_SECONDS = 1.0

GONE = KafkaError(KafkaError._PURGE_QUEUE)  # noqa: SLF001 - librdkafka's name for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerSettings:
    """What of librdkafka's configuration relayd's operator decides."""

    brokers: str
    client_id: str
    compression: str
    message_max_bytes: int
    delivery_seconds: float
    linger_seconds: float
    queue_messages: int
    batch_messages: int = 10_000

    def librdkafka(self) -> dict[str, str | int | float | bool]:
        """Source: librdkafka, CONFIGURATION.md."""
        delivery_ms = max(1, round(self.delivery_seconds * 1000))
        return {
            "bootstrap.servers": self.brokers,
            "client.id": self.client_id,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": self.compression,
            "partitioner": "murmur2_random",
            "delivery.timeout.ms": delivery_ms,
            # The broker must not hold a request longer than anybody waits for its answer.
            "request.timeout.ms": delivery_ms,
            # Nor may a connection that has fallen silent hold up metadata or the producer's id.
            "socket.timeout.ms": max(LEAST_SOCKET_MS, delivery_ms),
            "max.in.flight.requests.per.connection": REQUESTS_UNDER_WAY,
            "linger.ms": self.linger_seconds * 1000,
            "batch.size": BATCH_BYTES,
            "batch.num.messages": self.batch_messages,
            "message.max.bytes": self.message_max_bytes,
            "queue.buffering.max.messages": self.queue_messages,
            "queue.buffering.max.kbytes": max(
                QUEUE_KIBIBYTES, 2 * self.message_max_bytes // 1024 + 1
            ),
            # An outage should not outlast itself by librdkafka's ten seconds.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 2_000,
            "log.connection.close": False,
        }


class Outgoing:
    """A message and its delivery callback in one: each object more would be felt.

    `report` gets None when the message is acknowledged, or the error. With None it runs inside of
    librdkafka's poll, and must not produce.
    """

    __slots__ = ("producer",)

    producer: "IdempotentProducer"

    def report(self, error: KafkaError | None) -> None:
        raise NotImplementedError

    def __call__(self, error: KafkaError | None, _message: Message) -> None:
        producer = self.producer
        # A retired producer reports from the thread that ends it, and has been answered for.
        if producer.is_retired:
            return
        producer.under_way.discard(self)
        if error is None:
            producer.has_delivered = True
            self.report(None)
        else:
            producer.failed(self, error)


class IdempotentProducer:
    """Must be made and used on the event loop's thread, except for `probe`."""

    def __init__(self, settings: ProducerSettings, notices: Notices) -> None:
        """Connects in the background. Raises KafkaException when librdkafka refuses a setting."""
        self.failure: str | None = None
        self._notices = notices
        self._loop = asyncio.get_running_loop()
        self.has_delivered = False
        # Of the topic that was probed last; 0 before.
        self.partitions = 0
        self.under_way: set[Outgoing] = set()
        self.is_retired = False
        self._failed: list[tuple[Outgoing, KafkaError]] = []
        self._ending: threading.Thread | None = None
        # Any: the stubs want one type for all values of the mapping.
        configuration: dict[str, Any] = {
            **settings.librdkafka(),
            "error_cb": self._on_error,
            "throttle_cb": self._on_throttle,
        }
        self._producer = Producer(configuration, logger=_logger(notices))
        self._idle = True
        self._timer = self._loop.call_later(IDLE_POLL_SECONDS, self._poll)

    def produce(
        self,
        topic: str,
        value: bytes,
        key: str,
        headers: Headers,
        message: Outgoing,
        *,
        timestamp: float,
    ) -> None:
        """Queue a message; its `report` is called once. `timestamp` is the record's, in seconds
        since the epoch.

        Raises BufferError when the queue is full, and KafkaException when librdkafka refuses the
        message; `report` is then not called.
        """
        message.producer = self
        try:
            self._producer.produce(
                topic,
                value,
                key,
                headers=headers,
                on_delivery=message,
                timestamp=int(timestamp * 1000),
            )
        except KafkaException as error:
            self._note_failure(error.args[0])
            raise
        self.under_way.add(message)
        if self._idle:
            self._timer.cancel()
            self._idle = False
            self._timer = self._loop.call_later(POLL_SECONDS, self._poll)

    def probe(self, topic: str, seconds: float) -> str:
        """Empty when the cluster answers for the topic, otherwise why not. Any thread; blocks."""
        try:
            found = self._producer.list_topics(topic, timeout=seconds).topics[topic]
        except KafkaException as error:
            return kafka_text(error.args[0])
        except RuntimeError as error:
            # Retired and closed while we asked.
            return f"closed: {error}"
        if found.error is not None:
            return kafka_text(found.error)
        self.partitions = len(found.partitions)
        if all(partition.leader < 0 for partition in found.partitions.values()):
            return "LEADER_NOT_AVAILABLE: no partition has a leader"
        return ""

    def retire(self) -> None:
        """Report everything under way as failed, and end the producer on a thread: that waits for
        librdkafka's own. Calling it again does nothing."""
        if self.is_retired:
            return
        self.is_retired = True
        self._timer.cancel()
        self._settle()
        left, self.under_way = self.under_way, set()
        self._ending = threading.Thread(
            target=_end, args=(self._producer,), name="kafka-end", daemon=True
        )
        self._ending.start()
        for message in left:
            message.report(GONE)

    def close(self) -> None:
        """Retire, and wait for the end for a moment; blocks for up to `CLOSE_SECONDS`."""
        self.retire()
        if self._ending is not None:
            self._ending.join(CLOSE_SECONDS)

    def _poll(self) -> None:
        try:
            self._producer.poll(0)
        except KafkaException as error:
            # A fatal error is raised here as well as told to the error callback.
            self._on_error(error.args[0])
        self._settle()
        if self.failure is not None:
            self.retire()
        if self.is_retired:
            return
        self._idle = not self.under_way
        wait = IDLE_POLL_SECONDS if self._idle else POLL_SECONDS
        self._timer = self._loop.call_later(wait, self._poll)

    def _settle(self) -> None:
        # After poll, not inside it: what is called here may produce, or retire this producer.
        while self._failed:
            failed, self._failed = self._failed, []
            for message, error in failed:
                message.report(error)

    def failed(self, message: Outgoing, error: KafkaError) -> None:
        """A message was not delivered; called by the message itself."""
        self._failed.append((message, error))
        self._note_failure(error)

    def _on_error(self, error: KafkaError) -> None:
        if not self.is_retired:
            self._notices.kafka_error(error)
            self._note_failure(error)

    def _on_throttle(self, event: Any) -> None:  # Any: ThrottleEvent has no type stubs
        if not self.is_retired:
            self._notices.throttled(str(event.broker_name), float(event.throttle_time))

    def _note_failure(self, error: KafkaError) -> None:
        # Source: librdkafka, INTRODUCTION.md, "Fatal producer errors": nothing can be produced
        # any more, the application has to make another producer.
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - librdkafka's name
            self.failure = self.failure or kafka_text(error)


def _logger(notices: Notices) -> logging.Logger:
    """Of its own, not from the registry: the handler belongs to this producer."""
    logger = logging.Logger("librdkafka", logging.WARNING)
    logger.addHandler(LibrdkafkaHandler(notices))
    return logger


def _end(producer: Producer) -> None:
    producer.purge()
    # Of a producer that failed for good it raises the error once more, which has been told; before
    # Python 3.12 the binding, 2.16, now and then makes a SystemError of it.
    with contextlib.suppress(KafkaException, SystemError):
        producer.flush(CLOSE_SECONDS)
    producer.close()
