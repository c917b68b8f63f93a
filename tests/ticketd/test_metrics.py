"""Tallies hand over exactly what single observations would have."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from servicedesk.tally import Tally
from ticketd.metrics import gauges
from ticketd.tallies import SECONDS_BUCKETS

VALUES = (0.0, 0.0005, 0.00051, 0.001, 0.3, 0.3, 10.0, 11.0, 1e9)


def histogram(registry: CollectorRegistry) -> Histogram:
    return Histogram("seconds", "of a test", buckets=SECONDS_BUCKETS, registry=registry)


def values(registry: CollectorRegistry) -> list[bytes]:
    """Without the moment of creation, which differs."""
    return [line for line in generate_latest(registry).splitlines() if b"_created" not in line]


def test_tally_is_what_the_library_would_have_observed() -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    direct, tallied = histogram(one), Tally(histogram(other), SECONDS_BUCKETS)
    for _ in range(2):
        for value in VALUES:
            direct.observe(value)
            tallied.observe(value)
        tallied.flush()
        tallied.flush()
        assert values(one) == values(other)


@pytest.mark.parametrize("many", [VALUES, VALUES[:1], (), (1e9, 11.0)])
def test_many_observations_at_once_are_what_single_ones_are(many: tuple[float, ...]) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    singly, together = (
        Tally(histogram(one), SECONDS_BUCKETS),
        Tally(histogram(other), SECONDS_BUCKETS),
    )
    for _ in range(2):
        for value in many:
            singly.observe(value)
        together.observe_all(list(reversed(many)))
    singly.flush()
    together.flush()
    assert values(one) == values(other)


def test_probes_do_not_read_what_dead_workers_have_counted(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"not to be read")
    assert gauges(tmp_path) == {}
