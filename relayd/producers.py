"""The two producers of the publisher: one for all rows, one for rows that are sent alone.

One that failed for good is made anew. One that cannot be made, for want of memory or threads or
for a file that is gone, counts as Kafka being away, and making it is tried again: nothing rises.
"""

from collections.abc import Callable
from dataclasses import replace

from confluent_kafka import KafkaException

from relayd.notices import Notices
from relayd.producer import IdempotentProducer, ProducerSettings
from relayd.verdict import kafka_text
from servicedesk.backoff import Backoff

# A producer that fails for good right after it was made must not be made again in a tight loop.
REMAKE = Backoff(base_seconds=1.0, cap_seconds=30.0)
# What of the delivery time-out is kept for sending a row again alone.
ALONE_SHARE = 0.5

NOT_REMADE = "the producer failed for good and is not made anew yet"


class Producers:
    """`now` is the event loop's clock."""

    def __init__(
        self,
        settings: ProducerSettings,
        notices: Notices,
        *,
        now: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """To be made on the event loop. Raises KafkaException on settings librdkafka refuses."""
        self._settings = settings
        self._notices = notices
        self._now = now
        self._random = random
        self._failures = 0
        self._remake_at = 0.0
        self._producer: IdempotentProducer | None = IdempotentProducer(settings, notices)
        # Made when it is needed, which is seldom.
        self._single: IdempotentProducer | None = None
        # Why the last call gave none.
        self.obstacle = ""

    def usable(self) -> IdempotentProducer | None:
        """The producer; a new one in place of one that failed for good, in time; or None."""
        producer = self._producer
        if producer is not None and producer.failure is None:
            return producer
        now = self._now()
        if producer is not None:
            self._producer = None
            self.obstacle = NOT_REMADE
            self._failures = 1 if producer.has_delivered else self._failures + 1
            # The first time at once.
            self._remake_at = now + self._wait_seconds() if self._failures > 1 else now
            self._notices.say("error", "producer_failed", "", error=producer.failure)
            producer.retire()
        if self._producer is None and now < self._remake_at:
            return None
        self._producer = self._make(self._settings)
        if self._producer is None:
            self._failures += 1
            self._remake_at = now + self._wait_seconds()
        return self._producer

    def single(self) -> IdempotentProducer | None:
        """The one that sends every message in a batch of its own; None when it cannot be made."""
        if self._single is None or self._single.failure is not None:
            if self._single is not None:
                self._single.retire()
            settings = replace(
                self._settings,
                batch_messages=1,
                linger_seconds=0.0,
                delivery_seconds=self._settings.delivery_seconds * ALONE_SHARE,
            )
            self._single = self._make(settings)
        return self._single

    def close(self) -> None:
        """Blocks for up to a second each."""
        for producer in (self._producer, self._single):
            if producer is not None:
                producer.close()
        self._producer = self._single = None

    def _wait_seconds(self) -> float:
        return REMAKE.delay_seconds(self._failures, self._random)

    def _make(self, settings: ProducerSettings) -> IdempotentProducer | None:
        try:
            return IdempotentProducer(settings, self._notices)
        except KafkaException as refusal:
            self.obstacle = f"no producer can be made: {kafka_text(refusal.args[0])}"
            self._notices.say("error", "producer_not_made", "", error=self.obstacle)
            return None
