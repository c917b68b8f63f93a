"""Observations of a histogram that are counted in plain numbers and handed over together."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from prometheus_client import Histogram


class Tally:
    """Observations of a histogram, counted here and handed over by `flush`: one hand-over writes to
    the shared files what would otherwise be two writes each time."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram, bounds: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        """As `observe` for each, at a fraction of the cost."""
        ordered = sorted(values)
        below = 0
        for place, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound, below)
            self._counts[place] += upto - below
            below = upto
        self._counts[-1] += len(ordered) - below
        self._sum += sum(ordered)

    def flush(self) -> None:
        """The library has no public way to add more than one observation at once; a test holds this
        against its `observe`."""
        if any(self._counts):
            self._histogram._sum.inc(self._sum)  # noqa: SLF001
            for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):  # noqa: SLF001
                if count:
                    bucket.inc(count)
            self._counts = [0] * len(self._counts)
            self._sum = 0.0
