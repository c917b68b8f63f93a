"""The broker as the queue's Target: rows go out as event envelopes, outcomes come back.

A row is settled within `Config.send_seconds`, whatever happens to Kafka, to the producer or to the
row itself.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from relayd.background import on_thread
from relayd.config import WAITING_SHARE
from relayd.dead_letter import VALUE_OMITTED, dead_letter_headers
from relayd.messages import DeadLetterSent, Sent
from relayd.notices import Notices
from relayd.partitions import partition_of
from relayd.producer import IdempotentProducer, ProducerSettings
from relayd.producers import ALONE_SHARE, Producers
from relayd.record import Headers, record
from relayd.verdict import kafka_text, verdict
from servicedesk.queue.row import Failure, QueuedRow, Rejected, Unreachable
from servicedesk.queue.target import BuryError, Settle

FULL_QUEUE_SECONDS = 0.005

QUEUE_FULL = Unreachable(error="_QUEUE_FULL: the producer does not drain", is_everywhere=True)


class Publisher:
    """Implements servicedesk.queue.target.Target on a topic and its dead letter topic.

    A broker refuses whole batches, for their size or for one record in them. So only a row that was
    refused alone is Rejected: one that was refused in a batch is sent again by itself.

    `prepare` is run on a thread before anything is sent, until it returns an empty text once; what
    it returns otherwise says why Kafka is not ready.
    """

    def __init__(
        self,
        settings: ProducerSettings,
        *,
        topic: str,
        dlq_topic: str,
        notices: Notices,
        prepare: Callable[[], str],
        random: Callable[[], float],
        probe_seconds: float = 2.0,
    ) -> None:
        """To be made on the event loop. Raises KafkaException on settings librdkafka refuses."""
        self._settings = settings
        self._topic = topic
        self._dlq_topic = dlq_topic
        self._notices = notices
        self._prepare = prepare
        self._probe_seconds = probe_seconds
        self._loop = asyncio.get_running_loop()
        self._unprepared = "Kafka has not answered since the start"
        self._waiting: deque[Sent] = deque()
        self._producers = Producers(settings, notices, now=self._loop.time, random=random)
        # Ids of rows to be sent alone the next time.
        self._suspects: set[int] = set()
        # As Kafka said last; and what `part` goes by, which is to change between outages only.
        self._counted = 0
        self._partitions = 0

    async def prepare(self) -> bool:
        """Run what has to come before the first send, unless it is done; False: try again."""
        if self._unprepared:
            unprepared = await on_thread(self._prepare)
            if not unprepared:
                await self.count()
            # Last, because relayd is ready with it.
            self._unprepared = unprepared
        return not self._unprepared

    @property
    def unprepared(self) -> str:
        """Why nothing can be sent yet; empty once it can. Callable from any thread."""
        return self._unprepared

    def send(self, row: QueuedRow, settle: Settle, begun_at: float) -> None:
        try:
            value, headers = record(row)
        except Exception as error:
            # Whatever it is, it is about this row, and send never raises.
            settle(row, _refused(error))
            return
        now = self._loop.time()
        sent = Sent(row, settle, value, headers, now, begun_at, self._failed_in_batch)
        # Behind rows that wait already, so that none of them waits for ever.
        if self._waiting or not self._send(sent):
            self._wait(sent)

    def part(self, key: str) -> str:
        """Its partition, by name."""
        count = self._partitions
        return f"partition {partition_of(key, count)}" if count else ""

    def parts(self) -> int:
        """As `count` found it last."""
        self._partitions = self._counted
        return self._partitions

    @property
    def has_counted(self) -> bool:
        return self._counted > 0

    async def count(self) -> None:
        """Ask how many partitions the topic has now, where Kafka answers."""
        producer = self._producers.usable()
        if producer is not None:
            await self._look_at_topic(producer)

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        reasons = dead_letter_headers(row, failure, original_topic=self._topic)
        omitted = [*reasons, ("dlq_value", VALUE_OMITTED)]
        # What of the row cannot be encoded, or is refused, is told by the reasons alone.
        letters: list[tuple[bytes, Headers]] = [(b"", omitted)]
        with contextlib.suppress(Exception):
            value, headers = record(row)
            letters = [(value, headers + reasons), (b"", headers + omitted), *letters]
        for value, headers in letters:
            error = await self._publish_dead(row, value, headers)
            if not isinstance(error, Rejected):
                break
        if error is not None:
            raise BuryError(f"{self._dlq_topic}: {error.error}")

    async def probe(self, receiver: str) -> bool:
        """The `receiver` is always Kafka. True when it answers for the topic in time."""
        if not await self.prepare():
            reason = self._unprepared
        elif (producer := self._producers.usable()) is None:
            reason = self._producers.obstacle
        else:
            reason = await self._look_at_topic(producer)
        if reason:
            kind = reason.partition(":")[0]
            self._notices.say("warning", "kafka_unreachable", kind, reason=reason)
        else:
            self._notices.forget()
        return not reason

    async def _look_at_topic(self, producer: IdempotentProducer) -> str:
        """Empty when Kafka answers for the topic, otherwise why not; counts its partitions."""
        reason = await on_thread(partial(producer.probe, self._topic, self._probe_seconds))
        self._counted = producer.partitions or self._counted
        self._partitions = self._partitions or self._counted
        return reason

    def close(self) -> None:
        """Settle what is still under way as Unreachable, and end the producer. Blocks for up to a
        second."""
        self._expire(float("inf"))
        self._producers.close()

    def _send(self, sent: Sent) -> bool:
        """False when the producer's queue is full; otherwise the row is, or will be, settled."""
        producer = self._producers.usable()
        if producer is None or self._unprepared:
            self._obstruct(sent, self._unprepared or self._producers.obstacle)
            return True
        if sent.row.id in self._suspects:
            self._suspects.remove(sent.row.id)
            self._send_alone(sent)
            return True
        try:
            self._produce(producer, sent)
        except BufferError:
            return False
        return True

    def _produce(self, producer: IdempotentProducer, sent: Sent) -> None:
        """Raises BufferError only. What is refused at once is about the row by itself."""
        try:
            producer.produce(
                self._topic,
                sent.value,
                sent.row.key,
                sent.headers,
                sent,
                timestamp=sent.timestamp,
            )
        except BufferError:
            raise
        except KafkaException as refusal:
            self._failed(sent, refusal.args[0])
        except Exception as error:
            sent.settle(sent.row, _refused(error))

    def _failed_in_batch(self, sent: Sent, error: KafkaError) -> None:
        if not isinstance(verdict(error), Rejected):
            self._failed(sent, error)
            return
        self._notices.say("warning", "batch_refused", error.name(), error=kafka_text(error))
        age = self._loop.time() - sent.begun_at
        if age <= self._settings.delivery_seconds * (1 - ALONE_SHARE):
            self._send_alone(sent)
        else:
            # Too late to be settled in time a second time; the next time begins with it.
            self._suspects.add(sent.row.id)
            self._obstruct(sent, f"refused in a batch: {kafka_text(error)}")

    def _send_alone(self, sent: Sent) -> None:
        sent.failed = self._failed
        producer = self._producers.single()
        if producer is None:
            self._obstruct(sent, self._producers.obstacle)
            return
        try:
            self._produce(producer, sent)
        except BufferError:
            sent.settle(sent.row, QUEUE_FULL)

    @staticmethod
    def _obstruct(sent: Sent, reason: str) -> None:
        """Nothing can be sent now, whatever the row."""
        sent.settle(sent.row, Unreachable(error=reason, is_everywhere=True))

    @staticmethod
    def _failed(sent: Sent, error: KafkaError) -> None:
        sent.settle(sent.row, verdict(error))

    def _wait(self, sent: Sent) -> None:
        if not self._waiting:
            self._loop.call_later(FULL_QUEUE_SECONDS, self._send_waiting)
        self._waiting.append(sent)

    def _send_waiting(self) -> None:
        self._expire(self._loop.time())
        while self._waiting:
            if not self._send(self._waiting[0]):
                self._loop.call_later(FULL_QUEUE_SECONDS, self._send_waiting)
                return
            self._waiting.popleft()

    def _expire(self, now: float) -> None:
        longest = self._settings.delivery_seconds * WAITING_SHARE
        while self._waiting and self._waiting[0].begun_at + longest <= now:
            late = self._waiting.popleft()
            late.settle(late.row, QUEUE_FULL)

    async def _publish_dead(
        self, row: QueuedRow, value: bytes, headers: Headers
    ) -> Rejected | Unreachable | None:
        """What became of the dead letter, None when it is acknowledged."""
        producer = self._producers.usable()
        if producer is None or self._unprepared:
            raise BuryError(self._unprepared or self._producers.obstacle)
        sent = DeadLetterSent(self._loop.create_future())
        try:
            producer.produce(self._dlq_topic, value, row.key, headers, sent, timestamp=time.time())
        except BufferError as full:
            raise BuryError("the producer's queue is full") from full
        except KafkaException as refusal:
            return verdict(refusal.args[0])
        except Exception as error:
            return _refused(error)
        undelivered = await sent.outcome
        return verdict(undelivered) if undelivered is not None else None


def _refused(error: Exception) -> Rejected:
    return Rejected(error=f"{type(error).__name__}: {error}")
