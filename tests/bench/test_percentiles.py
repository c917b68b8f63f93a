"""Percentiles, spreads and ratios."""

import pytest

from bench.percentiles import latency_of, percentile, ratios, spread_of


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999), (1.0, 1000)]
)
def test_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 1001)], share) == expected


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.0) == percentile([7.0], 0.999) == 7.0


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_latency_does_not_need_an_order() -> None:
    found = latency_of([3.0, 1.0, 2.0])
    assert found is not None
    assert (found.p50, found.p99, found.maximum) == (2.0, 3.0, 3.0)
    assert latency_of([]) is None


def test_spread_is_the_median_between_its_extremes() -> None:
    found = spread_of([30.0, 10.0, 20.0])
    assert (found.median, found.lowest, found.highest, found.count) == (20.0, 10.0, 30.0, 3)


def test_ratio_is_taken_round_by_round() -> None:
    # The second round was disturbed for both, which the ratio does not show.
    found = ratios([100.0, 50.0, 120.0], [50.0, 25.0, 60.0])
    assert (found.median, found.lowest, found.highest) == (2.0, 2.0, 2.0)


def test_ratio_to_nothing_is_left_out() -> None:
    assert ratios([100.0, 90.0], [50.0, 0.0]).count == 1
