"""The bench of relays and notifyd: its rows, its reading of records, its pages."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from bench.queues.prefill import event_of
from bench.queues.rows import HEAD_BYTES, tails
from bench.queues.settings import parse_settings
from bench.queues.topic import occurred_at
from bench.report import report
from servicedesk.event import envelope
from tests.bench.samples import result, sample
from tests.support.processes import PROJECT


@pytest.mark.parametrize("size", [64, 400, 65_536])
def test_payloads_are_as_long_as_asked_for(size: int) -> None:
    assert {HEAD_BYTES + len(tail.encode()) for tail in tails(size)} == {size}


def test_age_of_a_record_is_taken_from_its_envelope() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    value = envelope(event_of(7, tails(200), moment.timestamp()))
    assert occurred_at(value) == pytest.approx(moment.timestamp(), abs=1e-5)


def test_page_shows_relays_with_their_ratios_and_holds_them_to_the_bars() -> None:
    samples = [
        sample("relay-drain", name, number, rate=rate * number)
        for number in (1, 2)
        for name, rate in (("relayd", 60_000.0), ("debezium", 10_000.0))
    ]
    run = result(*samples, label="peers")
    settings = {"rounds": 2, "events": 1000, "size": 400}
    run = type(run)(**{name: getattr(run, name) for name in run.__slots__} | {"settings": settings})
    page, _ = report([run])
    assert "| relayd to debezium | 6 | 6 | 6 |" in page
    assert "| events/s of one relayd, to Debezium | ≥ 5 | 6 (6–6) | yes | peers, " in page
    assert "a run at 012345678, 2 rounds, drains of 1,000 events" in page
    assert "## Iterations" not in page


def test_latency_bar_takes_the_rate_it_is_for() -> None:
    samples = [sample("relay-steady", "relayd", rate=r, offered=r) for r in (500.0, 2000.0)]
    run = result(*samples)
    settings = {"rounds": 1, "events": 1000, "size": 400}
    run = type(run)(**{name: getattr(run, name) for name in run.__slots__} | {"settings": settings})
    page, _ = report([run])
    assert "| commit to acknowledgement at 2,000 events/s, p99, ms | ≤ 50 | 3.5 (3.5–3.5) |" in page


@pytest.mark.parametrize(
    "arguments",
    [["relay", "--scenarios", "ingest"], ["notify", "--peers", "debezium"], ["fly"]],
)
def test_wrong_argument_ends_the_bench_with_its_name(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments)
    assert ended.value.code == 2


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("arguments", "contestants"),
    [
        (
            ["relay", "--scenarios", "drain", "--peers", "usual-batch,usual-row"],
            ["relayd", "usual-batch", "usual-row"],
        ),
        (["relay", "--scenarios", "held-steady", "--held-rate", "100"], ["relayd", "relayd-held"]),
        (
            ["relay", "--scenarios", "copies", "--copies", "1,2"],
            ["relayd-1", "relayd-2"],
        ),
        (["notify", "--scenarios", "away,webhook", "--webhook-events", "500"], ["notifyd"]),
    ],
)
def test_small_run_measures_everybody_and_misses_nothing(
    arguments: list[str], contestants: list[str]
) -> None:
    small = ["--events", "3000", "--rounds", "1", "--seconds", "1", "--warm-events", "1000"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.queues", *arguments, *small, "--no-result"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout.replace("errors", "")
    for name in contestants:
        assert any(line.split()[1:2] == [name] for line in done.stdout.splitlines()), done.stdout
