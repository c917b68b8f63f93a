"""Reads the topic on a thread of its own and hands batches to the event loop, one at a time.

An offset is committed only after the batch that holds it has been taken in for good. While a batch
waits, because the database is away, the partitions are paused and polling goes on, so the group
stays as it is. What a rebalance hands to two consumers is sorted out by the inbox.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for
from time import monotonic
from typing import Any, Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from notifyd.consumer_settings import ConsumerSettings
from notifyd.metrics import IngestMetrics
from notifyd.partitions import Partitions
from notifyd.record import MessageRest, Record
from servicedesk.logs import Log

OK = "ok"
ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - the library's name for it
POLL_SECONDS = 0.1
WATCH_SECONDS = 1.0
# librdkafka tells of silent brokers only once it has given up all of its connections, which takes
# half a minute; so Kafka is asked this often whether it is there.
ASK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
# A batch is usually in within milliseconds; one that is not makes the partitions pause.
PATIENCE_SECONDS = 0.5
COMMIT_SECONDS = 2.0
CLOSE_SECONDS = 3.0

Prepared = TypeVar("Prepared")


class TopicConsumer(Generic[Prepared]):
    """One member of the consumer group. `take_in` runs on the loop that `run` was called on, one
    batch at a time; `prepare` on the consumer's thread, meanwhile for the batch that comes next."""

    def __init__(
        self,
        *,
        settings: ConsumerSettings,
        prepare: Callable[[Sequence[Record]], Prepared],
        take_in: Callable[[Prepared], Coroutine[Any, Any, object]],
        metrics: IngestMetrics,
        log: Log,
    ) -> None:
        self._settings = settings
        self._prepare = prepare
        self._take_in = take_in
        self._log = log
        self._stopping = threading.Event()
        self._kafka = "not connected yet"
        # Everything below belongs to the consumer's thread.
        self._partitions = Partitions(topic=settings.topic, metrics=metrics, log=log)
        self._carried: list[Record] = []
        self._next: tuple[list[Record], Prepared] | None = None
        self._watched_at = 0.0
        self._asked_at = 0.0

    def readiness(self) -> str:
        """ "ok" while Kafka answers, otherwise a reason. Callable from any thread."""
        return self._kafka

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`: the batch under way is finished, its offsets are committed, the
        group is left unless librdkafka takes too long over it. Raises what a bug in `take_in`
        raised; its batch is not committed."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        # A daemon thread: librdkafka may block on brokers that are away, as it has in `close`, and
        # the process must still be able to leave in time.
        thread = threading.Thread(
            target=self._main, args=(loop, ended), name="consumer", daemon=True
        )
        thread.start()
        stopped = asyncio.ensure_future(stop.wait())
        try:
            either: set[asyncio.Future[Any]] = {ended, stopped}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            seconds = self._settings.finish_seconds + COMMIT_SECONDS + CLOSE_SECONDS
            await asyncio.wait({ended}, timeout=seconds)
            if ended.done():
                ended.result()
            else:
                self._log.warning("group_not_left_in_time", seconds=seconds)
        finally:
            self._stopping.set()
            stopped.cancel()

    def _main(self, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
        failure: Exception | None = None
        try:
            self._consume(loop)
        except Exception as error:  # reported to `run`, which raises it
            failure = error
        if not loop.is_closed():  # as it is when this took too long
            loop.call_soon_threadsafe(_finish, ended, failure)

    def _consume(self, loop: asyncio.AbstractEventLoop) -> None:
        consumer = self._connected()
        try:
            while not self._stopping.is_set():
                batch = self._next or self._read(self._gather(consumer, POLL_SECONDS))
                self._next = None
                if batch is not None and self._taken_in(consumer, loop, *batch):
                    self._partitions.commit(consumer)
                self._watch(consumer)
        finally:
            self._leave(consumer)

    def _connected(self) -> Consumer:
        callbacks = {"error_cb": self._on_error, "on_commit": self._partitions.on_commit}
        consumer = Consumer(
            {**self._settings.librdkafka(), **callbacks}, logger=logging.getLogger("kafka")
        )
        consumer.subscribe(
            [self._settings.topic],
            on_assign=self._partitions.on_assign,
            on_revoke=self._partitions.on_revoke,
            on_lost=self._partitions.on_lost,
        )
        return consumer

    def _gather(self, consumer: Consumer, seconds: float) -> list[Record]:
        """The first record that comes in time, and all that have come with it, up to a batch."""
        carried, self._carried = self._carried, []
        found = carried or self._sound([consumer.poll(seconds)])
        room = self._settings.batch_records - len(found)
        if found and room > 0:
            found += self._sound(consumer.consume(room, timeout=0))
        return found

    def _sound(self, messages: Iterable[Message | None]) -> list[Record]:
        """Of one poll, right after it: the next one may end an assignment, and librdkafka drops
        what is left of one that has ended."""
        found = []
        owned = self._partitions.owned
        for message in messages:
            error = message.error() if message is not None else None
            if error is not None:
                self._note_error(error)
            elif message is not None:
                found.append(_record(message, owned))
        return found

    def _read(self, records: list[Record]) -> tuple[list[Record], Prepared] | None:
        return (records, self._prepare(records)) if records else None

    def _taken_in(
        self,
        consumer: Consumer,
        loop: asyncio.AbstractEventLoop,
        records: list[Record],
        prepared: Prepared,
    ) -> bool:
        """False when the daemon had to stop first. Raises what `take_in` raised."""
        future = asyncio.run_coroutine_threadsafe(self._take_in(prepared), loop)
        # The database is at work: time to read what comes next.
        self._next = self._read(self._gather(consumer, 0))
        try:
            if not self._waited(consumer, future):
                return False
            future.result()
        except CancelledError:
            return False
        self._partitions.taken_in(records)
        return True

    def _waited(self, consumer: Consumer, future: "Future[Any]") -> bool:
        if wait_for([future], PATIENCE_SECONDS).done:
            return True
        self._log.info("partitions_paused", partitions=sorted(self._partitions.owned))
        give_up_at: float | None = None
        while not future.done():
            # Every time, because a rebalance may have brought partitions that are not paused.
            consumer.pause(consumer.assignment())
            self._carried += self._sound([consumer.poll(POLL_SECONDS)])
            self._watch(consumer)
            if self._stopping.is_set() and give_up_at is None:
                give_up_at = monotonic() + self._settings.finish_seconds
            if give_up_at is not None and monotonic() > give_up_at:
                future.cancel()
                return False
        consumer.resume(consumer.assignment())
        self._log.info("partitions_resumed", partitions=sorted(self._partitions.owned))
        return True

    def _leave(self, consumer: Consumer) -> None:
        consumer.pause(consumer.assignment())
        deadline = monotonic() + min(COMMIT_SECONDS, self._settings.finish_seconds)
        # Again and again, because a rebalance makes the group refuse commits for a while.
        while not self._partitions.is_committed and monotonic() < deadline:
            if not self._partitions.committing:
                self._partitions.commit(consumer)
            consumer.poll(0.02)
        consumer.close()

    def _watch(self, consumer: Consumer) -> None:
        """Once a second: commits that failed, the lag, and whether Kafka is there."""
        now = monotonic()
        if now - self._watched_at < WATCH_SECONDS:
            return
        self._watched_at = now
        if self._kafka != OK or now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._ask(consumer)
        if not self._partitions.committing:
            self._partitions.commit(consumer)
        self._partitions.measure_lag(consumer, reachable=self._kafka == OK)

    def _ask(self, consumer: Consumer) -> None:
        try:
            consumer.list_topics(self._settings.topic, timeout=ANSWER_SECONDS)
        except KafkaException as error:
            self._note_away(error.args[0].name(), error.args[0])
            return
        if self._kafka != OK:
            self._kafka = OK
            self._log.info("kafka_reached", brokers=self._settings.brokers)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == ALL_BROKERS_DOWN:
            self._note_away("every broker is down", error)

    def _note_away(self, reason: str, error: KafkaError) -> None:
        if self._kafka == OK:
            self._log.error("kafka_away", brokers=self._settings.brokers, reason=error.str())
        self._kafka = f"away: {reason}"

    def _note_error(self, error: KafkaError) -> None:
        """Errors that come in place of records; librdkafka goes on by itself after all of them."""
        level = "info" if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART else "warning"
        self._log.write(level, "kafka_error", {"error": error.name(), "reason": error.str()})


def _record(message: Message, owned: Mapping[int, int]) -> Record:
    partition = _number(message.partition())
    return Record(
        message.topic() or "",
        partition,
        _number(message.offset()),
        message.value(),
        MessageRest(message),
        owned.get(partition, 0),
    )


def _number(value: int | None) -> int:
    return -1 if value is None else value


def _finish(ended: "asyncio.Future[None]", failure: Exception | None) -> None:
    if ended.done():
        return
    if failure is not None:
        ended.set_exception(failure)
    else:
        ended.set_result(None)
