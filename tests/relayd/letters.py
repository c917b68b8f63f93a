"""Dead letters as relayd writes them, on a topic of the test's own."""

import asyncio
import io
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import psycopg

from relayd.notices import Notices
from relayd.producer import ProducerSettings
from relayd.publisher import Publisher
from servicedesk.logs import Log
from servicedesk.queue.row import Failure, QueuedRow

FIRST_FAILED = datetime(2025, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
BAD = "INVALID_RECORD: Broker: refused"


def failure(error: str = BAD, first_failed_at: datetime = FIRST_FAILED) -> Failure:
    return Failure(error=error, attempts=3, first_failed_at=first_failed_at)


def publish_letters(brokers: str, topic: str, letters: Sequence[tuple[QueuedRow, Failure]]) -> None:
    """In order, on `topic`.dlq; returns when the brokers have them."""
    settings = ProducerSettings(
        brokers=brokers,
        client_id="test",
        compression="lz4",
        message_max_bytes=1_000_000,
        delivery_seconds=5.0,
        linger_seconds=0.001,
        queue_messages=10_000,
    )

    async def main() -> None:
        publisher = Publisher(
            settings,
            topic=topic,
            dlq_topic=f"{topic}.dlq",
            notices=Notices(Log("relayd", stream=io.StringIO()), time.monotonic),
            prepare=lambda: "",
            random=random.random,
        )
        try:
            await publisher.prepare()
            for row, why in letters:
                await publisher.bury(row, why)
        finally:
            publisher.close()

    asyncio.run(main())


BURY = """
INSERT INTO outbox_dead (bucket, id, aggregate_id, sequence, event_id, event_type, headers, payload,
                         created_at, error, attempts, first_failed_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


def keep_dead(
    connection: psycopg.Connection[tuple[object, ...]], row: QueuedRow, why: Failure
) -> None:
    """The dead row that stands beside a letter."""
    values = (
        row.bucket, row.id, row.aggregate_id, row.sequence, row.event_id, row.event_type,
        row.headers, row.payload.decode(), row.created_at, why.error, why.attempts,
        why.first_failed_at,
    )  # fmt: skip
    connection.execute(BURY, values)
