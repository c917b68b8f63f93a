"""The relay as it is usually written, as a process: lock pending rows, produce, flush, mark them.

`python -m bench.queues.usual row|batch DATABASE_URL BROKERS TOPIC`. `row` flushes after each row,
`batch` once for all rows of a read. Same driver, same librdkafka, same envelope as relayd; no
metrics, no leases, no log. With several copies side by side neither keeps the order of a ticket.
"""

import signal
import sys
import threading
from typing import Any

import psycopg
from confluent_kafka import KafkaError, Message, Producer
from psycopg.rows import namedtuple_row

from servicedesk.event import Event, envelope, kafka_headers

ROWS = 500
IDLE_SECONDS = 0.005
FLUSH_SECONDS = 30.0

# Row locks on what is read, until it is marked. The partial index outbox_usual_pending.
SELECT = """
SELECT id, aggregate_id, sequence, event_id, event_type, headers, payload, created_at
FROM outbox_usual WHERE status = 'pending' ORDER BY id LIMIT %(rows)s FOR UPDATE SKIP LOCKED
"""
# Row locks that are held already; the primary key.
MARK = "UPDATE outbox_usual SET status = 'sent', sent_at = now() WHERE id = ANY(%(ids)s)"


class UsualRelay:
    def __init__(self, url: str, brokers: str, topic: str, *, by_row: bool) -> None:
        self._url = url
        self._topic = topic
        self._by_row = by_row
        self._producer = Producer(
            {
                "bootstrap.servers": brokers,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "linger.ms": 0 if by_row else 5,
            }
        )
        self._failed: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Raises RuntimeError when Kafka refuses a row."""
        with psycopg.connect(self._url, row_factory=namedtuple_row) as connection:
            while not stop.is_set():
                with connection.transaction():
                    rows: list[Any] = connection.execute(SELECT, {"rows": ROWS}).fetchall()
                    for row in rows:
                        self._produce(row)
                        if self._by_row:
                            self._flush()
                    self._flush()
                    if rows:
                        connection.execute(MARK, {"ids": [row.id for row in rows]})
                if not rows:
                    stop.wait(IDLE_SECONDS)

    def _produce(self, row: Any) -> None:
        event = Event(
            event_id=row.event_id,
            event_type=row.event_type,
            occurred_at=row.created_at,
            aggregate_id=row.aggregate_id,
            sequence=row.sequence,
            request_id=None,
            traceparent=None,
            payload=row.payload,
        )
        headers: list[tuple[str, Any]] = list(kafka_headers(event))
        key = str(row.aggregate_id).encode()
        self._producer.produce(
            self._topic, envelope(event), key, headers=headers, on_delivery=self._delivered
        )

    def _flush(self) -> None:
        if self._producer.flush(FLUSH_SECONDS) or self._failed:
            raise RuntimeError(f"Kafka took not all rows: {self._failed[:1]}")

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error.str())


def main() -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    mode, url, brokers, topic = sys.argv[1:]
    UsualRelay(url, brokers, topic, by_row=mode == "row").run(stop)


if __name__ == "__main__":
    main()
