"""The queue's metrics, named after its table: outbox_… in relayd, delivery_… in notifyd."""

from collections import Counter as Counted
from collections.abc import Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from servicedesk.queue.lines import Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.parts import Parts
from servicedesk.queue.row import QueuedRow
from servicedesk.queue.tables import QueueTables
from servicedesk.tally import Tally

# From a broker next door to an outage of an hour.
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600,
)  # fmt: skip


class QueueMetrics:
    """One queue's counters and gauges in a registry."""

    def __init__(self, tables: QueueTables, registry: CollectorRegistry) -> None:
        name = tables.name
        by_receiver = ("receiver",) if tables.has_receiver else ()
        self._has_receiver = tables.has_receiver
        self.published = Counter(
            f"{name}_published", "Rows acknowledged by the far side.", ["event_type"],
            registry=registry,
        )  # fmt: skip
        self.rejected = Counter(
            f"{name}_rejected", "Attempts that were refused.", by_receiver, registry=registry
        )
        self.dead = Counter(
            f"{name}_dead", "Rows given up after the last attempt.", by_receiver, registry=registry
        )
        self.lease_lost = Counter(
            f"{name}_lease_lost", "Buckets lost before they were released.", registry=registry
        )
        self.commit_to_ack = Histogram(
            f"{name}_commit_to_ack_seconds", "From the row's transaction to its acknowledgement.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._ages = Tally(self.commit_to_ack, SECONDS)
        self.oldest_pending = Gauge(
            f"{name}_oldest_pending_seconds", "Age of the oldest row waiting here: the lag.",
            registry=registry,
        )  # fmt: skip
        self.pending = Gauge(
            f"{name}_pending", "Rows waiting in this worker's buckets.", registry=registry
        )
        self.parked_keys = Gauge(
            f"{name}_parked_keys", "Keys waiting for a retry here.", registry=registry
        )
        self.parts_away = Gauge(
            f"{name}_parts_away", "Parts of the far side, as partitions, that are away.",
            registry=registry,
        )  # fmt: skip
        self.buckets = Gauge(
            f"{name}_buckets", "Buckets this worker holds, of 64.", registry=registry
        )
        self.in_flight = Gauge(f"{name}_in_flight", "Rows under way.", registry=registry)
        self.circuit_open = Gauge(
            f"{name}_circuit_open", "1 while the far side is away.", by_receiver, registry=registry
        )

    def count_arrived(self, rows: Sequence[QueuedRow], now: datetime) -> None:
        """Rows that the far side has acknowledged by `now`."""
        end = now.timestamp()
        self._ages.observe_all([max(0.0, end - row.created_at.timestamp()) for row in rows])
        self._ages.flush()
        for event_type, count in Counted(row.event_type for row in rows).items():
            self.published.labels(event_type).inc(count)

    def labelled(self, metric: Counter, receiver: str) -> Counter:
        return metric.labels(receiver) if self._has_receiver else metric

    def show_circuit(self, receiver: str, *, is_open: bool) -> None:
        gauge = self.circuit_open.labels(receiver) if self._has_receiver else self.circuit_open
        gauge.set(1 if is_open else 0)

    def show_waiting(self, lines: Lines, parking: Parking, parts: Parts, unread: int) -> None:
        """What waits: rows in memory, `unread` ones behind them, parked keys, and the oldest."""
        times = [line.rows[0].created_at for line in lines.lines.values()]
        times += [time for time in (parking.oldest_row(), parts.oldest_row()) if time is not None]
        oldest = min(times, default=None)
        age = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
        self.oldest_pending.set(max(0.0, age))
        self.pending.set(unread + lines.total_rows)
        self.parked_keys.set(len(parking))
        self.parts_away.set(len(parts.away))
        self.in_flight.set(lines.in_flight)
