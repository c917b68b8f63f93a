"""Metrics of attachments: the calls to S3, whether the store is there, and what was swept away."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ticketd.metrics import STORAGE_UP
from ticketd.tallies import SECONDS_BUCKETS


class AttachmentMetrics:
    """In the registry of the worker; they exist only where there is a store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "ticketd_storage_call_seconds",
            "Calls to the S3 store, to the end of their answer",
            ("operation", "outcome"),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._up = Gauge(
            STORAGE_UP,
            "1 while the S3 store answers, 0 while attachments are refused",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._removed = Counter(
            "ticketd_storage_objects_removed_total",
            "Objects deleted with their attachment, or never completed",
            registry=registry,
        )
        self.store_came_back()

    def call(self, operation: str, outcome: str, seconds: float) -> None:
        self._seconds.labels(operation, outcome).observe(seconds)

    def store_went(self) -> None:
        self._up.set(0)

    def store_came_back(self) -> None:
        self._up.set(1)

    def removed(self, count: int) -> None:
        self._removed.inc(count)
