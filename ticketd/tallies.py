"""Observations counted in the process and handed over to the metrics together (decision 0010)."""

from prometheus_client import Counter, Gauge, Histogram

from servicedesk.tally import Tally

SECONDS_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
AGE_BUCKETS = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class RouteMetrics:
    """The metrics of one method and route. Their label values appear with the first request."""

    __slots__ = ("_labels", "_requests", "_seconds", "_statuses", "_tally")

    def __init__(self, requests: Counter, seconds: Histogram, method: str, route: str) -> None:
        self._requests = requests
        self._seconds = seconds
        self._labels = (method, route)
        self._statuses: dict[int, int] = {}
        self._tally: Tally | None = None

    def observe(self, status: int, seconds: float) -> None:
        statuses = self._statuses
        statuses[status] = statuses.get(status, 0) + 1
        if self._tally is None:
            self._tally = Tally(self._seconds.labels(*self._labels), SECONDS_BUCKETS)
        self._tally.observe(seconds)

    def flush(self) -> None:
        for status, count in self._statuses.items():
            self._requests.labels(*self._labels, str(status)).inc(count)
        self._statuses.clear()
        if self._tally is not None:
            self._tally.flush()


class BatchMetrics:
    """The metrics of the batches of one kind of request."""

    __slots__ = ("_errors", "_seconds", "_size", "_wait")

    def __init__(
        self, size: Histogram, wait: Histogram, seconds: Histogram, errors: Counter
    ) -> None:
        self._size = Tally(size, SIZE_BUCKETS)
        self._wait = Tally(wait, SECONDS_BUCKETS)
        self._seconds = Tally(seconds, SECONDS_BUCKETS)
        self._errors = errors

    def batch(self, size: int, waited_seconds: float, took_seconds: float) -> None:
        self._size.observe(size)
        self._wait.observe(waited_seconds)
        self._seconds.observe(took_seconds)

    def failure(self, kind: str) -> None:
        self._errors.labels(kind).inc()

    def flush(self) -> None:
        for tally in (self._size, self._wait, self._seconds):
            tally.flush()


class CacheMetrics:
    """How reads by id went by the cache."""

    __slots__ = ("_age", "_counts", "_reads")

    def __init__(self, reads: Counter, age: Histogram) -> None:
        self._reads = reads
        self._age = Tally(age, AGE_BUCKETS)
        self._counts: dict[str, int] = {}

    def read(self, outcome: str) -> None:
        self._counts[outcome] = self._counts.get(outcome, 0) + 1

    def hit(self, age_seconds: float) -> None:
        self.read("hit")
        self._age.observe(age_seconds)

    def flush(self) -> None:
        for outcome, count in self._counts.items():
            self._reads.labels(outcome).inc(count)
        self._counts.clear()
        self._age.flush()


class RedisMetrics(BatchMetrics):
    """The metrics of a worker's connection to Redis."""

    __slots__ = ("_up",)

    def __init__(
        self, size: Histogram, wait: Histogram, seconds: Histogram, errors: Counter, up: Gauge
    ) -> None:
        super().__init__(size, wait, seconds, errors)
        self._up = up

    def state(self, *, is_up: bool) -> None:
        self._up.set(int(is_up))
