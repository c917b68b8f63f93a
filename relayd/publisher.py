"""The broker as the queue's Target: rows go out as event envelopes, outcomes come back.

A row is settled within `Config.send_seconds`, whatever happens to Kafka, to the producer or to the
row itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from confluent_kafka import KafkaError, KafkaException

from relayd.background import on_thread
from relayd.config import WAITING_SHARE
from relayd.dead_letter import VALUE_OMITTED, dead_letter_headers
from relayd.notices import Notices
from relayd.producer import IdempotentProducer, ProducerSettings
from relayd.record import Headers, record
from relayd.verdict import kafka_text, verdict
from servicedesk.backoff import Backoff
from servicedesk.queue.row import Acknowledged, Failure, QueuedRow, Rejected, Unreachable
from servicedesk.queue.target import BuryError, Settle

# A producer that fails for good right after it was made must not be made again in a tight loop.
REMAKE = Backoff(base_seconds=1.0, cap_seconds=30.0)
FULL_QUEUE_SECONDS = 0.005

ACKNOWLEDGED = Acknowledged()
NOT_REMADE = "the producer failed for good and is not made anew yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A row that found the producer's queue full. `until` is a time of the loop's clock."""

    row: QueuedRow
    settle: Settle
    value: bytes
    headers: Headers
    until: float


class Publisher:
    """Implements servicedesk.queue.target.Target on a topic and its dead letter topic.

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
        self._random = random
        self._probe_seconds = probe_seconds
        self._loop = asyncio.get_running_loop()
        self._unprepared = "Kafka has not answered since the start"
        self._waiting: deque[Waiting] = deque()
        self._failures = 0
        self._remake_at = 0.0
        self._producer: IdempotentProducer | None = IdempotentProducer(settings, notices)

    async def prepare(self) -> bool:
        """Run what has to come before the first send, unless it is done; False: try again."""
        if self._unprepared:
            self._unprepared = await on_thread(self._prepare)
        return not self._unprepared

    @property
    def unprepared(self) -> str:
        """Why nothing can be sent yet; empty once it can. Callable from any thread."""
        return self._unprepared

    def send(self, row: QueuedRow, settle: Settle) -> None:
        try:
            value, headers = record(row)
        except Exception as error:
            # Whatever it is, it is about this row, and send never raises.
            settle(row, Rejected(error=f"{type(error).__name__}: {error}"))
            return
        # Behind rows that wait already, so that none of them waits for ever.
        if self._waiting or not self._send(row, settle, value, headers):
            self._wait(row, settle, value, headers)

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        reasons = dead_letter_headers(row, failure, original_topic=self._topic)
        try:
            value, headers = record(row)
        except Exception:
            # What cannot be encoded is told by the headers alone.
            value, headers = b"", []
        error = await self._publish_dead(row, value, headers + reasons) if value else None
        if not value or (error is not None and isinstance(verdict(error), Rejected)):
            omitted = [*headers, *reasons, ("dlq_value", VALUE_OMITTED)]
            error = await self._publish_dead(row, b"", omitted)
        if error is not None:
            raise BuryError(f"{self._dlq_topic}: {kafka_text(error)}")

    async def probe(self, receiver: str) -> bool:
        """The `receiver` is always Kafka. True when it answers for the topic in time."""
        if not await self.prepare():
            reason = self._unprepared
        elif (producer := self._usable_producer()) is None:
            reason = NOT_REMADE
        else:
            reason = await on_thread(partial(producer.probe, self._topic, self._probe_seconds))
        if reason:
            kind = reason.partition(":")[0]
            self._notices.say("warning", "kafka_unreachable", kind, reason=reason)
        else:
            self._notices.forget()
        return not reason

    def close(self) -> None:
        """Settle what is still under way as Unreachable, and end the producer. Blocks for up to a
        second."""
        self._expire(float("inf"))
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send(self, row: QueuedRow, settle: Settle, value: bytes, headers: Headers) -> bool:
        """False when the producer's queue is full; otherwise the row is, or will be, settled."""
        producer = self._producer
        if producer is None or producer.failure is not None:
            producer = self._usable_producer()
        if producer is None or self._unprepared:
            settle(row, Unreachable(error=self._unprepared or NOT_REMADE))
            return True
        report = partial(self._report, row, settle)
        try:
            producer.produce(self._topic, value, row.key, headers, report)
        except BufferError:
            return False
        except KafkaException as refusal:
            self._report(row, settle, refusal.args[0])
        return True

    def _report(self, row: QueuedRow, settle: Settle, error: KafkaError | None) -> None:
        if error is None:
            self._failures = 0
            settle(row, ACKNOWLEDGED)
        else:
            settle(row, verdict(error))

    def _usable_producer(self) -> IdempotentProducer | None:
        """The producer; a new one in place of one that failed for good, in time; or None."""
        producer = self._producer
        if producer is not None and producer.failure is None:
            return producer
        now = self._loop.time()
        if producer is not None:
            self._producer = None
            self._failures += 1
            self._remake_at = now + REMAKE.delay_seconds(self._failures, self._random)
            self._notices.say("error", "producer_failed", "", error=producer.failure)
            producer.retire()
        if self._producer is None and self._failures > 1 and now < self._remake_at:
            return None
        self._producer = IdempotentProducer(self._settings, self._notices)
        return self._producer

    def _wait(self, row: QueuedRow, settle: Settle, value: bytes, headers: Headers) -> None:
        if not self._waiting:
            self._loop.call_later(FULL_QUEUE_SECONDS, self._send_waiting)
        until = self._loop.time() + self._settings.delivery_seconds * WAITING_SHARE
        self._waiting.append(
            Waiting(row=row, settle=settle, value=value, headers=headers, until=until)
        )

    def _send_waiting(self) -> None:
        self._expire(self._loop.time())
        while self._waiting:
            first = self._waiting[0]
            if not self._send(first.row, first.settle, first.value, first.headers):
                self._loop.call_later(FULL_QUEUE_SECONDS, self._send_waiting)
                return
            self._waiting.popleft()

    def _expire(self, now: float) -> None:
        while self._waiting and self._waiting[0].until <= now:
            late = self._waiting.popleft()
            late.settle(late.row, Unreachable(error="_QUEUE_FULL: the producer does not drain"))

    async def _publish_dead(
        self, row: QueuedRow, value: bytes, headers: Headers
    ) -> KafkaError | None:
        """The error of the dead letter's delivery, None when it is acknowledged."""
        producer = self._usable_producer()
        if producer is None or self._unprepared:
            raise BuryError(self._unprepared or NOT_REMADE)
        acknowledged: asyncio.Future[KafkaError | None] = self._loop.create_future()

        def report(error: KafkaError | None) -> None:
            if not acknowledged.done():
                acknowledged.set_result(error)

        try:
            producer.produce(self._dlq_topic, value, row.key, headers, report)
        except BufferError as full:
            raise BuryError("the producer's queue is full") from full
        except KafkaException as refusal:
            return cast("KafkaError", refusal.args[0])
        return await acknowledged
