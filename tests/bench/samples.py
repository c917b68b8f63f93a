"""Results as a run makes them."""

from dataclasses import replace
from datetime import UTC, datetime

from bench.percentiles import Latency
from bench.result import Figures, Result, Sample

LATENCY = Latency(p50=1.0, p90=2.0, p99=3.5, p999=9.0, maximum=12.0)


def sample(
    scenario: str = "create",
    contestant: str = "ticketd",
    number: int = 1,
    *,
    rate: float = 1000.0,
    cpu_us: float = 50.0,
    offered: float | None = None,
    p99: float = 3.5,
) -> Sample:
    figures = Figures(
        generator="wrk" if offered is None else "k6",
        seconds=2.0,
        requests=round(rate * 2),
        errors={},
        latency=replace(LATENCY, p99=p99),
        generator_cpu_seconds=0.1,
        offered=offered,
    )
    return Sample(
        scenario=scenario,
        contestant=contestant,
        round=number,
        figures=figures,
        cpu_us={"service": cpu_us, "database": 30.0, "generator": 5.0},
        others_cpu=0.01,
        memory_mb={"service_rss": 80.0},
    )


def result(*samples: Sample, label: str = "first", day: int = 1) -> Result:
    return Result(
        label=label,
        kind="run",
        date=datetime(2026, 1, day, tzinfo=UTC),
        commit="0123456789" * 4,
        dirty=False,
        machine={"cpu": "a <CPU>", "cores": 2, "memory_mb": 8000, "kernel": "6", "load_before": 0},
        versions={"python": "3.11"},
        settings={"rounds": 2, "seconds": 5.0},
        contestants=[],
        left_out={},
        samples=samples,
    )
