"""Metrics of the API. Under `python -m ticketd` every worker writes its own files in
PROMETHEUS_MULTIPROC_DIR, named by its number, and whoever asks gets the sum of all workers. A
worker that takes the place of a dead one counts on in its files.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from ticketd.tallies import (
    AGE_BUCKETS,
    SECONDS_BUCKETS,
    SIZE_BUCKETS,
    BatchMetrics,
    CacheMetrics,
    RedisMetrics,
    RouteMetrics,
)

# Label values must not be what clients make up.
OTHER_METHOD = "other"
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", OTHER_METHOD)
FLUSH_SECONDS = 0.25
DATABASE_STATE = "ticketd_database_state"
STORAGE_UP = "ticketd_storage_up"
HEARTBEAT = "ticketd_worker_heartbeat_timestamp_seconds"


class DatabaseState(IntEnum):
    """How a worker sees its database; the worst of all workers has the lowest number, and one that
    has not looked yet takes nothing from the others."""

    OUTDATED = -1
    UNREACHABLE = 0
    OK = 1
    STARTING = 2


class Metrics:
    """All metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tallied: list[RouteMetrics | BatchMetrics | CacheMetrics] = []
        self._requests = Counter(
            "ticketd_http_requests_total",
            "Requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ticketd_http_request_duration_seconds",
            "From the request's headers to the answer given to the server",
            ("method", "route"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.refused = Counter(
            "ticketd_requests_refused_total",
            "Requests turned away to protect the server or for want of the database",
            ("reason",),
            registry=self.registry,
        )
        self.abandoned = Counter(
            "ticketd_requests_abandoned_total",
            "Requests whose client went away before the answer",
            registry=self.registry,
        )
        self.database_errors = Counter(
            "ticketd_database_errors_total",
            "Statements that failed: away is a lost or missing connection",
            ("kind",),
            registry=self.registry,
        )
        self.replays = Counter(
            "ticketd_idempotent_replays_total",
            "Repeated requests that were answered from Redis",
            registry=self.registry,
        )
        self._cache_reads = Counter(
            "ticketd_cache_reads_total",
            "Reads by id with the cache on: hit, miss, or bypass when it could not be used",
            ("outcome",),
            registry=self.registry,
        )
        self._cache_age = Histogram(
            "ticketd_cache_age_seconds",
            "How long ago what was shown from the cache was put there",
            buckets=AGE_BUCKETS,
            registry=self.registry,
        )
        self._redis_errors = Counter(
            "ticketd_redis_errors_total",
            "Exchanges with Redis that failed: away is lost, missing or too slow",
            ("kind",),
            registry=self.registry,
        )
        self._redis_up = self._gauge(
            "ticketd_redis_up", "1 while Redis is asked, 0 while the circuit is open", "livemin"
        )
        self._batch_size = self._batch_histogram(
            "ticketd_batch_requests", "Requests that shared one statement", SIZE_BUCKETS
        )
        self._batch_wait = self._batch_histogram(
            "ticketd_batch_wait_seconds", "The oldest request's wait for its batch", SECONDS_BUCKETS
        )
        self._statement = self._batch_histogram(
            "ticketd_batch_statement_seconds", "A batch's statement, with repeats", SECONDS_BUCKETS
        )
        self.in_flight = self._gauge(
            "ticketd_http_requests_in_flight", "Requests being worked on", "livesum"
        )
        self.database_state = self._gauge(
            DATABASE_STATE, "2 starting, 1 ok, 0 unreachable, -1 schema too old", "livemin"
        )
        self.database_state.set(DatabaseState.STARTING)
        self.heartbeat = self._gauge(HEARTBEAT, "When the event loop last turned", "livemin")

    def route(self, method: str, route: str) -> RouteMetrics:
        """Shows what was observed after the next `flush`."""
        metrics = RouteMetrics(self._requests, self._seconds, method, route)
        self._tallied.append(metrics)
        return metrics

    def flush(self) -> None:
        for metrics in self._tallied:
            metrics.flush()

    def batches(self, kind: str) -> BatchMetrics:
        """As `route`."""
        metrics = BatchMetrics(
            self._batch_size.labels(kind),
            self._batch_wait.labels(kind),
            self._statement.labels(kind),
            self.database_errors,
        )
        self._tallied.append(metrics)
        return metrics

    def cache(self) -> CacheMetrics:
        """As `route`."""
        metrics = CacheMetrics(self._cache_reads, self._cache_age)
        self._tallied.append(metrics)
        return metrics

    def redis(self) -> RedisMetrics:
        """As `route`."""
        metrics = RedisMetrics(
            self._batch_size.labels("redis"),
            self._batch_wait.labels("redis"),
            self._statement.labels("redis"),
            self._redis_errors,
            self._redis_up,
        )
        self._tallied.append(metrics)
        return metrics

    async def keep_flushed(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()

    def _batch_histogram(self, name: str, description: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, description, ("kind",), buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, description: str, mode: str) -> Gauge:
        return Gauge(name, description, multiprocess_mode=mode, registry=self.registry)  # type: ignore[arg-type]  # a Literal in the stubs

    def exposition(self, directory: Path | None) -> bytes:
        """The Prometheus text: of all workers when they share a directory, of the others as they
        were up to FLUSH_SECONDS ago."""
        self.flush()
        return generate_latest(self.registry) if directory is None else exposition(directory)


class WorkerFiles(Collector):
    """The metrics of all workers that have written into a directory, summed up.

    A file that a worker has just created and not yet filled is left out: the collector that the
    library offers fails on it.
    """

    def __init__(self, directory: Path, files: str = "*.db") -> None:
        self._directory = directory
        self._files = files

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._directory.glob(self._files) if _size_bytes(path)]
        found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]  # untyped there
        return found


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def exposition(directory: Path) -> bytes:
    """The Prometheus text of all workers together."""
    registry = CollectorRegistry()
    registry.register(WorkerFiles(directory))
    return generate_latest(registry)


def gauges(directory: Path) -> Mapping[str, float]:
    """The gauges without labels, over all live workers; 0 where a worker has not set one yet.

    The files of counters are left alone: probes ask for this, and dead workers leave theirs."""
    return {
        sample.name: sample.value
        for metric in WorkerFiles(directory, "gauge_*.db").collect()
        if metric.type == "gauge"
        for sample in metric.samples
        if not sample.labels
    }


def write_as(number: int) -> None:
    """Before any metric is made: this process is the worker of that number, the only one. Files
    named by process ids, as the library names them, would pile up with every worker that dies."""
    own_files = values.MultiProcessValue(process_identifier=lambda: number)  # type: ignore[no-untyped-call]  # untyped there
    values.ValueClass = own_files


def forget_worker(number: int, directory: Path) -> None:
    """Drop the gauges of a dead worker; its counters stay in the sum, and its successor's."""
    mark_process_dead(number, path=str(directory))  # type: ignore[no-untyped-call]  # untyped there
