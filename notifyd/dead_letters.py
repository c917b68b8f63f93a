"""Dead letters: what is put on KAFKA_DLQ_TOPIC, and that it is there before anybody moves on.

Two kinds: a record that is no event, as it was found, and a delivery given up after its attempts.
`letters` reads them back.
"""

import asyncio
import logging
from datetime import datetime

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from notifyd.config import KafkaSettings
from notifyd.record import Record
from servicedesk.event import CONTENT_TYPE, MalformedEventError, rfc3339
from servicedesk.queue.row import Failure, QueuedRow
from servicedesk.queue.target import BuryError

Headers = list[tuple[str, str | bytes | None]]

ERROR_CLASS_BYTES = 256
ERROR_MESSAGE_BYTES = 768
VALUE_OMITTED = b"too large; read it at its original topic, partition and offset"
# librdkafka gives a message up after the first, and has answered by the first and the second.
DELIVERY_SECONDS = 5.0
ANSWER_SECONDS = 3.0
LEAST_SOCKET_MS = 2_000


class DeadLetterProducer:
    """Publishes one message at a time and waits for `acks=all`; safe from any task.

    A repeat may publish a dead letter twice, never lose it.
    """

    def __init__(
        self, settings: KafkaSettings, *, delivery_seconds: float = DELIVERY_SECONDS
    ) -> None:
        self._topic = settings.dlq_topic
        self._flush_seconds = delivery_seconds + ANSWER_SECONDS
        self._producer = Producer(
            {
                "bootstrap.servers": settings.brokers,
                "client.id": f"{settings.client_id}-dlq",
                "acks": "all",
                "message.timeout.ms": round(delivery_seconds * 1000),
                # Nor may a connection that has fallen silent be waited for any longer.
                "socket.timeout.ms": max(LEAST_SOCKET_MS, round(delivery_seconds * 1000)),
                "partitioner": "murmur2_random",
            },
            logger=logging.getLogger("kafka"),
        )

    async def publish(
        self, key: bytes | None, value: bytes | None, headers: Headers, own: Headers | None = None
    ) -> None:
        """Returns when the brokers have it. Raises BuryError when that is not possible now.

        What is too large goes without its value, and if need be without its key and its `own`
        headers, which are of any size.
        """
        # A thread, because librdkafka hands acknowledgements out only to a blocking call.
        await asyncio.to_thread(self._publish, key, value, headers, own or [])

    def _publish(
        self, key: bytes | None, value: bytes | None, headers: Headers, own: Headers
    ) -> None:
        omitted: Headers = [*headers, ("dlq_value_omitted", VALUE_OMITTED)]
        error = self._attempt(key, value, [*own, *headers])
        if _is_too_large(error):
            error = self._attempt(key, None, [*own, *omitted])
        if _is_too_large(error):
            error = self._attempt(None, None, omitted)
        if error is not None:
            raise BuryError(f"Kafka topic {self._topic}: {error.name()}: {error.str()}")

    def _attempt(
        self, key: bytes | None, value: bytes | None, headers: Headers
    ) -> KafkaError | None:
        reports: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            reports.append(error)

        try:
            self._producer.produce(
                self._topic, key=key, value=value, headers=headers, on_delivery=delivered
            )
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            return reason
        except BufferError:
            return KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001 - librdkafka's own name
        self._producer.flush(self._flush_seconds)
        return reports[0] if reports else KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001


class DeadLetters:
    """Both kinds of dead letters, with their headers (`dlq_…`, beside those they had)."""

    def __init__(self, producer: DeadLetterProducer) -> None:
        self._producer = producer

    async def bury_record(
        self, record: Record, error: MalformedEventError, failed_at: datetime
    ) -> None:
        """Raises BuryError."""
        key, timestamp_ms, own, _ = record.rest()
        headers: Headers = [
            *_origin(record.topic, record.partition, record.offset, timestamp_ms),
            ("dlq_attempts", b"1"),
            ("dlq_first_failed_at", rfc3339(failed_at).encode()),
            *_error(f"{type(error).__name__}: {error}"),
        ]
        await self._producer.publish(key, record.value, headers, list(own))

    async def bury_delivery(self, row: QueuedRow, failure: Failure) -> None:
        """Raises BuryError."""
        found = orjson.loads(row.headers)
        headers: Headers = [
            ("content-type", CONTENT_TYPE.encode()),
            *_origin(*(found.get(name) for name in ("topic", "partition", "offset", "timestamp"))),
            ("dlq_event_id", str(row.event_id).encode()),
            ("dlq_event_type", row.event_type.encode()),
            ("dlq_receiver", row.receiver.encode()),
            ("dlq_attempts", str(failure.attempts).encode()),
            ("dlq_first_failed_at", rfc3339(failure.first_failed_at).encode()),
            *_error(failure.error),
        ]
        if found.get("traceparent"):
            headers.append(("traceparent", str(found["traceparent"]).encode()))
        await self._producer.publish(str(row.aggregate_id).encode(), row.payload, headers)


def _is_too_large(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE


def _origin(topic: object, partition: object, offset: object, timestamp: object) -> Headers:
    names = ("topic", "partition", "offset", "timestamp")
    values = (topic, partition, offset, timestamp)
    return [
        (f"dlq_original_{name}", str(value).encode())
        for name, value in zip(names, values, strict=True)
    ]


def _error(text: str) -> Headers:
    """Class and message, together at most 1 KiB of UTF-8."""
    kind, _, message = text.partition(": ")
    return [
        ("dlq_error_class", _shortened(kind, ERROR_CLASS_BYTES)),
        ("dlq_error_message", _shortened(message, ERROR_MESSAGE_BYTES)),
    ]


def _shortened(text: str, most: int) -> bytes:
    """Never ends in the middle of a character."""
    return text.encode()[:most].decode(errors="ignore").encode()
