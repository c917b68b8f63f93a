"""What was wanted against what was measured, in the newest run that has it."""

from dataclasses import replace

from bench.wanted import wanted_table
from tests.bench.samples import result, sample


def test_bars_are_held_against_the_newest_run_that_has_them() -> None:
    peers = [
        sample(contestant=name, number=number, rate=rate, cpu_us=cpu)
        for number in (1, 2)
        for name, rate, cpu in (
            ("ticketd", 3000.0, 55.0),
            ("go", 1000.0, 90.0),
            ("pgbench", 4000.0, 0.0),
            ("fastapi", 100.0, 900.0),
        )
    ]
    old = result(*peers, label="peers")
    lower = [sample(rate=1.0, cpu_us=1.0)]
    table = wanted_table([result(sample(rate=9.0), label="first"), old, result(*lower, label="x")])
    assert "| creates/s, to the Go service | ≥ 2 | 3 (3–3) | yes | peers, " in table
    assert "| creates/s, to FastAPI | ≥ 25 | 30 (30–30) | yes | peers, " in table
    assert "single-row statement | ≥ 1 | 0.75 (0.75–0.75) | **no** | peers, " in table
    assert "| CPU of ticketd a create, µs | ≤ 50 | 55 (55–55) | **no** | peers, " in table
    assert "reads/s" not in table


def test_best_run_stands_beside_the_newest_one() -> None:
    runs = [
        result(
            sample("relay-drain", contestant="relayd", rate=rate),
            sample("relay-steady", contestant="relayd", rate=1.0, offered=2000.0, p99=p99),
            label=label,
        )
        for label, rate, p99 in (
            ("slow", 9000.0, 80.0),
            ("fast", 60000.0, 20.0),
            ("new", 8e3, 70.0),
        )
    ]
    rate, latency = wanted_table(runs).splitlines()[2:]
    assert rate.startswith("| events/s of one relayd to Apache Kafka, acks=all | ≥ 50000 | 8,000 ")
    assert "| **no** | new, " in rate
    assert "| 60,000 (60,000–60,000) | fast, " in rate
    assert "| **no** | new, " in latency
    assert "| 20 (20–20) | fast, " in latency


def test_overload_is_held_against_the_same_run_at_capacity() -> None:
    low = sample("overload", rate=1000.0, offered=1000.0)
    high = sample("overload", rate=960.0, offered=3000.0)
    table = wanted_table([result(low, high, label="overload")])
    assert "to those at capacity | ≥ 0.95 | 0.96 (0.96–0.96) | yes | overload, " in table
    assert "to that at capacity | ≤ 2 | 1 (1–1) | yes | overload, " in table


def test_overload_of_a_capacity_that_was_given_counts_for_nothing() -> None:
    samples = [sample("overload", rate=r, offered=r) for r in (1000.0, 3000.0)]
    table = wanted_table([replace(result(*samples), settings={"capacity": 1000.0})])
    assert "capacity" not in table


def test_latency_counts_at_half_of_the_capacity_of_its_own_run() -> None:
    samples = [
        sample(rate=1000.0),
        sample("latency", rate=501.0, offered=501.0),
        sample("latency", rate=900.0, offered=900.0),
    ]
    table = wanted_table([result(*samples, label="latency")])
    assert "half of capacity, open model, ms | ≤ 15 | 3.5 (3.5–3.5) | yes |" in table
