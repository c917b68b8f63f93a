"""Percentiles and medians of measured values; free of I/O."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """In milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    maximum: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median of several rounds, with the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float
    count: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order: the smallest value that at least
    `share` (0 to 1) of all values do not exceed. Raises ValueError without values."""
    if not ordered:
        raise ValueError("no values, so no percentile")
    # The product is rounded first: 0.999 * 1000 must be rank 999 and not 1000.
    return ordered[max(math.ceil(round(share * len(ordered), 9)), 1) - 1]


def latency_of(milliseconds: Sequence[float]) -> Latency | None:
    """None without values."""
    if not milliseconds:
        return None
    ordered = sorted(milliseconds)
    return Latency(
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        p999=percentile(ordered, 0.999),
        maximum=ordered[-1],
    )


def spread_of(values: Sequence[float]) -> Spread:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("no values, so no median")
    return Spread(
        median=statistics.median(values),
        lowest=min(values),
        highest=max(values),
        count=len(values),
    )


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of rounds that ran one after the other, pair by pair: what disturbs both leaves the ratio
    alone. Raises ValueError when there is no pair with a denominator above zero."""
    pairs = zip(numerators, denominators, strict=False)
    return spread_of([above / below for above, below in pairs if below > 0])
