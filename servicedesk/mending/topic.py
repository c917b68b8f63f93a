"""Reads a dead letter topic from its beginning to the end it has now, as no member of any group."""

from collections.abc import Iterator
from time import monotonic
from typing import Self

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from servicedesk.headers import UnreadableHeadersError, read_headers
from servicedesk.mending.letter import FoundRecord, LetterTopic, found_record

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.2
# Nothing came for so long, although there is more up to the end.
SILENT_SECONDS = 20.0
PARTITION_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - librdkafka's own name
FATAL = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART})


class TopicError(Exception):
    """The topic cannot be read now; the text says why and what to do."""


class TopicReading:
    """One reading of one topic. As a context manager it ends the connection."""

    def __init__(self, source: LetterTopic, *, silent_seconds: float = SILENT_SECONDS) -> None:
        """Raises TopicError when the brokers do not answer, or know no such topic."""
        self._source = source
        self._silent_seconds = silent_seconds
        self._consumer = Consumer(
            {
                "bootstrap.servers": source.brokers,
                "client.id": f"{source.client_id}-mending",
                # Asked for by the library; nothing is committed and no group is joined.
                "group.id": f"{source.client_id}-mending",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
                "queued.max.messages.kbytes": 16 * 1024,
                "log_level": 0,
            }
        )
        try:
            self._ends = self._present_ends()
        except TopicError:
            self._consumer.close()
            raise

    @property
    def total(self) -> int:
        """How many offsets lie between the beginning and the end; a compacted topic has fewer
        records."""
        return sum(end - start for start, end in self._ends.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def batches(self, rows: int) -> Iterator[list[FoundRecord]]:
        """Every record once, those of a partition in their order. Raises TopicError."""
        left = {number for number, (start, end) in self._ends.items() if start < end}
        topic = self._source.topic
        self._consumer.assign([TopicPartition(topic, n, self._ends[n][0]) for n in sorted(left)])
        heard_at = monotonic()
        while left:
            try:
                messages = self._consumer.consume(rows, POLL_SECONDS)
            except KafkaException as error:
                raise self._away(error.args[0].name()) from error
            if messages:
                heard_at = monotonic()
            elif monotonic() - heard_at > self._silent_seconds:
                raise self._away(f"nothing came for {self._silent_seconds:g} s")
            found = [one for one in messages if self._is_wanted(one, left)]
            if found:
                yield [_record(message) for message in found]

    def _is_wanted(self, message: Message, left: set[int]) -> bool:
        """A record up to the end; `left` loses the partition that has reached it."""
        number, offset, error = message.partition(), message.offset(), message.error()
        if error is not None:
            # The last offsets may hold no record: it was compacted away.
            if error.code() == PARTITION_EOF and number is not None:
                left.discard(number)
            elif error.code() in FATAL or error.fatal():
                raise self._away(error.name())
            return False
        if number is None or offset is None or number not in left:
            return False
        end = self._ends[number][1]
        if offset >= end - 1:
            left.discard(number)
        return offset < end

    def _present_ends(self) -> dict[int, tuple[int, int]]:
        try:
            return self._asked_ends(self._source.topic)
        except KafkaException as error:
            raise self._away(error.args[0].name()) from error

    def _asked_ends(self, name: str) -> dict[int, tuple[int, int]]:
        topic = self._consumer.list_topics(name, timeout=ANSWER_SECONDS).topics[name]
        if topic.error is not None:
            if topic.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise self._away(topic.error.name())
            raise TopicError(
                f"Kafka at {self._source.brokers} has no topic {name}: nothing was given up there "
                "yet, or KAFKA_BROKERS or KAFKA_DLQ_TOPIC names another than the daemons have"
            )
        ends = {}
        for number in topic.partitions:
            place = TopicPartition(name, number, OFFSET_END)
            ends[number] = self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
        return ends

    def _away(self, reason: str) -> TopicError:
        return TopicError(
            f"Kafka topic {self._source.topic} at {self._source.brokers} cannot be read "
            f"({reason}); see whether the brokers run and whether KAFKA_BROKERS is right, then "
            "say the same again"
        )


def _record(message: Message) -> FoundRecord:
    try:
        headers = read_headers(message)
    except UnreadableHeadersError:
        headers = []  # as of a record that is no letter, which this one is not
    return found_record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=headers,
    )
