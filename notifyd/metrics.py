"""The first stage's metrics; those of deliveries come from servicedesk.queue.metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class IngestMetrics:
    """Counters, histograms and gauges of one notifyd in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ingested = Counter(
            "notifyd_ingested", "Events taken in for the first time.", registry=registry
        )
        self.duplicates = Counter(
            "notifyd_duplicates", "Events that had been taken in before.", registry=registry
        )
        self.malformed = Counter(
            "notifyd_malformed", "Records that are no events, put on the dead letter topic.",
            registry=registry,
        )  # fmt: skip
        self.batch_records = Histogram(
            "notifyd_ingest_batch_records", "Records in a batch.", buckets=RECORDS,
            registry=registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "notifyd_ingest_seconds", "From a batch in hand to its commit.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.lag = Gauge(
            "notifyd_consumer_lag",
            "Records of the partition that the group has not taken in; NaN while Kafka is away.",
            ["partition"], registry=registry,
        )  # fmt: skip
        self.assigned = Gauge(
            "notifyd_assigned_partitions", "Partitions read by this notifyd.", registry=registry
        )
