"""The two kinds of message that the publisher hands to a producer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaError

from relayd.producer import Outgoing
from relayd.record import Headers
from servicedesk.queue.row import Acknowledged, QueuedRow
from servicedesk.queue.target import Settle

ACKNOWLEDGED = Acknowledged()


# Not frozen: one is made for every row, and freezing would double its cost.
@dataclass(slots=True, eq=False)
class Sent(Outgoing):
    """A row on its way, encoded. `begun_at` is a time of the loop's clock; `timestamp`, in seconds
    since the epoch, is the record's, by which the topic refuses what comes too late
    (relayd/topics.py). `failed` is called with it and the error when it does not arrive."""

    row: QueuedRow
    settle: Settle
    value: bytes
    headers: Headers
    begun_at: float
    timestamp: float
    failed: "Callable[[Sent, KafkaError], None]"

    def report(self, error: KafkaError | None) -> None:
        if error is None:
            self.settle(self.row, ACKNOWLEDGED)
        else:
            self.failed(self, error)


class DeadLetterSent(Outgoing):
    """A dead letter on its way; `outcome` is None when it is acknowledged, or the error."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: "asyncio.Future[KafkaError | None]") -> None:
        self.outcome = outcome

    def report(self, error: KafkaError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)
