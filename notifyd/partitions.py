"""The partitions this notifyd owns: how far they are taken in, committed, and behind.

Used from the consumer's thread only; the callbacks are called inside its polls.
"""

from collections.abc import Iterable, Set

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from notifyd.metrics import IngestMetrics
from notifyd.record import Record
from servicedesk.logs import Log

TOPIC_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID}
# A broker answers within milliseconds; the consumer's thread waits no longer for a metric.
ANSWER_SECONDS = 0.5


class Partitions:
    """Of one topic. Offsets are committed in the order of their records."""

    def __init__(self, *, topic: str, metrics: IngestMetrics, log: Log) -> None:
        self._topic = topic
        self._metrics = metrics
        self._log = log
        # The number of its assignment, by partition: one that left and came back has another.
        self.owned: dict[int, int] = {}
        self._assignments = 0
        # Commits whose answer has not come yet.
        self.committing = 0
        # For each partition the next offset to read, below which everything is taken in, and the
        # offset that was last sent to be committed and not refused.
        self._next: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._commit_error: str | None = None

    def taken_in(self, records: Iterable[Record]) -> None:
        """The records are in the database, or dead letters, for good. They come in order of their
        offsets; where these go back, the topic has been made anew, and counts from the start.

        Those of an assignment that has ended meanwhile are passed over: another owner may have
        come further since.
        """
        for record in records:
            if self.owned.get(record.partition) == record.assignment:
                self._next[record.partition] = record.offset + 1

    @property
    def is_committed(self) -> bool:
        """Nothing is left to commit, and no answer is left to wait for."""
        return not self._uncommitted() and not self.committing

    def _uncommitted(self) -> list[TopicPartition]:
        """Only of what is owned: an offset of a partition that has moved on could set its new
        owner back."""
        return [
            TopicPartition(self._topic, partition, offset)
            for partition, offset in self._next.items()
            if partition in self.owned and self._sent.get(partition) != offset
        ]

    def commit(self, consumer: Consumer) -> None:
        """Asynchronously; librdkafka keeps the order. What is refused goes with the next one, and
        never an older offset after a newer one."""
        offsets = self._uncommitted()
        if not offsets:
            return
        try:
            consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._note(error.args[0])
        else:
            self.committing += 1
            self._sent |= {each.partition: each.offset for each in offsets}

    def measure_lag(self, consumer: Consumer, *, reachable: bool) -> None:
        """Of the group: from what is taken in, or was when the partition came, to the newest record
        that the brokers have. NaN where they do not tell, because a stale number would look well.

        Blocks for two or three answers, each `ANSWER_SECONDS` at most; none while Kafka is away.
        """
        ends = self._marks(consumer, self.owned.keys(), OFFSET_END) if reachable else {}
        unknown = self.owned.keys() - self._next.keys()
        starts = self._starts(consumer, unknown) if reachable and unknown else {}
        for partition in self.owned:
            end, start = ends.get(partition), self._next.get(partition, starts.get(partition))
            lag = float("nan") if end is None or start is None else max(0, end - start)
            self._metrics.lag.labels(str(partition)).set(lag)

    def _starts(self, consumer: Consumer, partitions: Set[int]) -> dict[int, int]:
        """Where nothing was taken in since the partitions came: the group's offset, or the first
        record where there is none, or where those before it are gone by their age. Asked again each
        time, because the last owner's commit may still be on its way."""
        firsts = self._marks(consumer, partitions, OFFSET_BEGINNING)
        try:
            places = [TopicPartition(self._topic, each) for each in partitions]
            found = consumer.committed(places, timeout=ANSWER_SECONDS)
        except KafkaException:
            return {}
        return {
            each.partition: max(each.offset, firsts[each.partition])
            for each in found
            if each.error is None and each.partition in firsts
        }

    def _marks(self, consumer: Consumer, partitions: Set[int], which: int) -> dict[int, int]:
        """The first or the next offset of each partition, in one request a broker. librdkafka's own
        memory of them stands still while a partition is paused, and is empty before its first
        fetch."""
        places = [TopicPartition(self._topic, each, which) for each in partitions]
        try:
            # The two names are the times that stand for them in Kafka's ListOffsets request.
            found = consumer.offsets_for_times(places, timeout=ANSWER_SECONDS) if places else []
        except KafkaException:
            return {}
        return {
            each.partition: each.offset for each in found if not each.error and each.offset >= 0
        }

    def on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._assignments += 1
        for each in partitions:
            self.owned[each.partition] = self._assignments
            self._next.pop(each.partition, None)
            self._sent.pop(each.partition, None)
        self._show("partitions_assigned", partitions)

    def on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # While they are still ours, so that the next owner starts behind what is taken in.
        self.commit(consumer)
        self._forget(consumer, partitions)
        self._show("partitions_revoked", partitions)

    def on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(consumer, partitions)
        self._show("partitions_lost", partitions)

    def _forget(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # librdkafka keeps a pause for the partition's return, and nobody would end it then.
        consumer.resume(partitions)
        for each in partitions:
            self.owned.pop(each.partition, None)
            self._next.pop(each.partition, None)
            self._sent.pop(each.partition, None)
            self._metrics.lag.remove(str(each.partition))

    def _show(self, event: str, partitions: list[TopicPartition]) -> None:
        self._metrics.assigned.set(len(self.owned))
        self._log.info(event, partitions=sorted(each.partition for each in partitions))

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        self.committing -= 1
        failed = [each for each in partitions if error or each.error]
        for each in failed:
            self._sent.pop(each.partition, None)
            if each.error is not None and each.error.code() in TOPIC_GONE:
                # Not to be committed to a topic that is made anew: it would pass over its records.
                self._next.pop(each.partition, None)
        if failed:
            self._note(error or failed[0].error)
        elif self._commit_error is not None:
            self._commit_error = None
            self._log.info("offset_commits_go_on")

    def _note(self, error: KafkaError | None) -> None:
        # Harmless: at worst the records are read again and found in the inbox.
        name = error.name() if error is not None else "unknown"
        if name != self._commit_error:
            self._log.warning("offset_commit_failed", error=name)
        self._commit_error = name
