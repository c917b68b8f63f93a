"""Backoff: full jitter below a doubling, capped ceiling."""

import random

import pytest

from servicedesk.backoff import Backoff

BACKOFF = Backoff(base_seconds=0.5, cap_seconds=60.0)


@pytest.mark.parametrize(
    ("attempts", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (10_000, 60.0)]
)
def test_ceiling_doubles_until_the_cap(attempts: int, ceiling: float) -> None:
    assert BACKOFF.delay_seconds(attempts, lambda: 0.0) == ceiling


def test_wait_is_never_zero_and_never_above_the_ceiling() -> None:
    source = random.Random(7)
    waits = [BACKOFF.delay_seconds(3, source.random) for _ in range(2000)]
    assert min(waits) > 0
    assert max(waits) <= 2.0


def test_waits_fill_the_whole_range() -> None:
    source = random.Random(7)
    waits = [BACKOFF.delay_seconds(3, source.random) for _ in range(2000)]
    quarters = [sum(1 for wait in waits if q / 2 < wait <= (q + 1) / 2) for q in range(4)]
    assert all(400 < count < 600 for count in quarters)
