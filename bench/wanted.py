"""What was wanted, held against the newest runs that have it. The bars are those of the project's
performance goals; what was measured comes from result files."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.charts import number_text
from bench.percentiles import Spread, ratios, spread_of
from bench.result import Result, Sample

OWN = "ticketd"
UNBATCHED = "nobatch"
RELAY_RATE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`found` is None where a run does not have what it takes. `at_most`: lower is better."""

    what: str
    bar: float
    at_most: bool
    found: Callable[[Result], Spread | None]


def wanted_table(results: Sequence[Result]) -> str:
    rows = [
        "| what | wanted | newest run | met | run | best run | run |",
        "| --- | ---: | ---: | --- | --- | ---: | --- |",
    ]
    for bar in BARS:
        found = [(spread, run) for run in results if (spread := bar.found(run)) is not None]
        if found:
            rows.append(_row(bar, found))
    return "\n".join(rows)


def _row(bar: Bar, found: Sequence[tuple[Spread, Result]]) -> str:
    newest, run = found[-1]
    best, best_run = sorted(found, key=lambda each: each[0].median)[0 if bar.at_most else -1]
    met = newest.median <= bar.bar if bar.at_most else newest.median >= bar.bar
    sign = "≤" if bar.at_most else "≥"
    answer = "yes" if met else "**no**"
    cells = [
        bar.what, f"{sign} {bar.bar:g}", _measured(newest), answer, _name(run),
        _measured(best), _name(best_run),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _measured(spread: Spread) -> str:
    low, high = number_text(spread.lowest), number_text(spread.highest)
    return f"{number_text(spread.median)} ({low}–{high})"


def _name(run: Result) -> str:
    return f"{run.label}, {run.date:%m-%d}, {run.commit[:9]}"


def _of(result: Result, scenario: str, contestant: str = OWN) -> list[Sample]:
    return [
        sample
        for sample in result.samples
        if (sample.scenario, sample.contestant) == (scenario, contestant)
    ]


def _rates(samples: Sequence[Sample]) -> list[float]:
    return [sample.figures.rate for sample in samples]


def rate_to(scenario: str, peer: str) -> Callable[[Result], Spread | None]:
    """The ratio of rates, round by round, in runs that have all three peers."""

    def found(result: Result) -> Spread | None:
        own, other = _of(result, scenario), _of(result, scenario, peer)
        return ratios(_rates(own), _rates(other)) if own and other else None

    return found


def cpu_of(scenario: str) -> Callable[[Result], Spread | None]:
    """In runs beside the Go service, where nothing but peers was interleaved."""

    def found(result: Result) -> Spread | None:
        if not _of(result, scenario, "go"):
            return None
        values = [sample.cpu_us["service"] for sample in _of(result, scenario)]
        return spread_of(values) if values else None

    return found


def latency_at(share: float) -> Callable[[Result], Spread | None]:
    """The p99 at this share of the run's own capacity, in milliseconds."""

    def found(result: Result) -> Spread | None:
        capacity = _rates(_of(result, "create"))
        samples = _of(result, "latency")
        if not capacity or not samples:
            return None
        rate = statistics.median(capacity) * share
        near = [sample for sample in samples if _is_near(sample.figures.offered, rate)]
        return spread_of(list(_p99(near))) if near else None

    return found


def overload_to_capacity(value: Callable[[Sample], float]) -> Callable[[Result], Spread | None]:
    """A value at several times capacity to the same at capacity, round by round, in runs that
    measured their capacity: one that was given may be anything."""

    def found(result: Result) -> Spread | None:
        samples = _of(result, "overload")
        offered = sorted({sample.figures.offered or 0.0 for sample in samples})
        if len(offered) < 2 or result.settings.get("capacity"):
            return None
        low, high = (
            [value(sample) for sample in samples if sample.figures.offered == rate]
            for rate in (offered[0], offered[-1])
        )
        return ratios(high, low)

    return found


def alone_to_unbatched(result: Result) -> Spread | None:
    own, other = _of(result, "alone"), _of(result, "alone", UNBATCHED)
    return ratios(_rates(own), _rates(other)) if own and other else None


def rate_of(scenario: str, contestant: str) -> Callable[[Result], Spread | None]:
    """Events per second."""

    def found(result: Result) -> Spread | None:
        rates = _rates(_of(result, scenario, contestant))
        return spread_of(rates) if rates else None

    return found


def rate_to_other(scenario: str, own: str, other: str) -> Callable[[Result], Spread | None]:
    """The ratio of rates of two contestants, round by round."""

    def found(result: Result) -> Spread | None:
        above, below = _of(result, scenario, own), _of(result, scenario, other)
        return ratios(_rates(above), _rates(below)) if above and below else None

    return found


def relay_latency(result: Result) -> Spread | None:
    """The p99 of relayd at 2,000 events/s, in milliseconds."""
    samples = [s for s in _of(result, "relay-steady", "relayd") if s.figures.offered == RELAY_RATE]
    return spread_of(list(_p99(samples))) if samples else None


def _is_near(offered: float | None, rate: float) -> bool:
    return offered is not None and abs(offered - rate) <= 0.02 * rate


def _p99(samples: Sequence[Sample]) -> Iterator[float]:
    for sample in samples:
        if sample.figures.latency is not None:
            yield sample.figures.latency.p99


def _p99_of(sample: Sample) -> float:
    return sample.figures.latency.p99 if sample.figures.latency is not None else 0.0


BARS = (
    Bar(what="creates/s, to pgbench's single-row statement", bar=1, at_most=False,
        found=rate_to("create", "pgbench")),
    Bar(what="creates/s, to the Go service", bar=2, at_most=False, found=rate_to("create", "go")),
    Bar(what="reads/s, to the Go service", bar=1, at_most=False, found=rate_to("read", "go")),
    Bar(what="creates/s, to FastAPI", bar=25, at_most=False, found=rate_to("create", "fastapi")),
    Bar(what="reads/s, to FastAPI", bar=20, at_most=False, found=rate_to("read", "fastapi")),
    Bar(what="CPU of ticketd a create, µs", bar=50, at_most=True, found=cpu_of("create")),
    Bar(what="CPU of ticketd a read, µs", bar=30, at_most=True, found=cpu_of("read")),
    Bar(what="p99 of creates at half of capacity, open model, ms", bar=15, at_most=True,
        found=latency_at(0.5)),
    Bar(what="good answers/s at 3× the offered load, to those at capacity", bar=0.95,
        at_most=False, found=overload_to_capacity(lambda sample: sample.figures.rate)),
    Bar(what="p99 of the accepted at 3×, to that at capacity", bar=2, at_most=True,
        found=overload_to_capacity(_p99_of)),
    Bar(what="a lone caller's creates/s, to those without batches", bar=1, at_most=False,
        found=alone_to_unbatched),
    Bar(what="creates/s with an Idempotency-Key each, to those without", bar=0.7, at_most=False,
        found=rate_to_other("create", f"{OWN}-keyed", OWN)),
    Bar(what="events/s of one relayd to Apache Kafka, acks=all", bar=50_000, at_most=False,
        found=rate_of("relay-drain", "relayd")),
    Bar(what="events/s of one relayd, to Debezium", bar=5, at_most=False,
        found=rate_to_other("relay-drain", "relayd", "debezium")),
    Bar(what="commit to acknowledgement at 2,000 events/s, p99, ms", bar=50, at_most=True,
        found=relay_latency),
    Bar(what="a full outbox beside an old snapshot, to without it", bar=0.99, at_most=False,
        found=rate_to_other("relay-held-drain", "relayd-held", "relayd")),
    Bar(what="800 events/s beside an old snapshot, to without it", bar=0.99, at_most=False,
        found=rate_to_other("relay-held-steady", "relayd-held", "relayd")),
    Bar(what="events/s taken in by one notifyd that nobody wants", bar=30_000, at_most=False,
        found=rate_of("notify-ingest", "notifyd")),
    Bar(what="events/s taken in by one notifyd with a delivery each", bar=30_000, at_most=False,
        found=rate_of("notify-away", "notifyd")),
)  # fmt: skip
