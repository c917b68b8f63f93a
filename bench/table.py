"""The table of a run: medians, and from the lowest to the highest of the rounds."""

from collections.abc import Sequence

from bench.percentiles import Spread, spread_of
from bench.result import Result, Sample

HEADER = (
    "scenario", "contestant", "offered/s", "requests/s", "lowest-highest", "p50 ms", "p99 ms",
    "p99.9 ms", "errors", "CPU us", "of PG", "MB", "others",
)  # fmt: skip
Group = tuple[str, str, float | None]


def groups(samples: Sequence[Sample]) -> dict[Group, list[Sample]]:
    """The rounds of each scenario, contestant and place in the order of offered rates."""
    found: dict[Group, list[Sample]] = {}
    for sample in samples:
        key = (sample.scenario, sample.contestant, sample.figures.offered)
        found.setdefault(key, []).append(sample)
    return found


def median(samples: Sequence[Sample], part: str) -> Spread | None:
    """Of a member of Latency in ms; None when no sample has it."""
    values = [getattr(each.figures.latency, part) for each in samples if each.figures.latency]
    return spread_of(values) if values else None


def table(result: Result) -> str:
    lines = [HEADER, *(_line(key, samples) for key, samples in groups(result.samples).items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _line(key: Group, samples: Sequence[Sample]) -> tuple[str, ...]:
    scenario, contestant, offered = key
    rate = spread_of([sample.figures.rate for sample in samples])
    errors = sum(sum(sample.figures.errors.values()) for sample in samples)
    dropped = sum(sample.figures.dropped for sample in samples)
    return (
        scenario,
        contestant,
        "" if offered is None else f"{offered:,.0f}",
        f"{rate.median:,.0f}",
        f"{rate.lowest:,.0f}-{rate.highest:,.0f}",
        *(_milliseconds(median(samples, part)) for part in ("p50", "p99", "p999")),
        f"{errors:,}" + (f" +{dropped:,} dropped" if dropped else ""),
        _cpu(samples, "service"),
        _cpu(samples, "database"),
        _memory(samples),
        f"{spread_of([sample.others_cpu for sample in samples]).median:.0%}",
    )


def _milliseconds(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:,.1f}"


def _cpu(samples: Sequence[Sample], part: str) -> str:
    values = [sample.cpu_us[part] for sample in samples if part in sample.cpu_us]
    return f"{spread_of(values).median:,.0f}" if values else ""


def _memory(samples: Sequence[Sample]) -> str:
    values = [
        sample.memory_mb.get("service_pss", sample.memory_mb.get("service_rss", 0.0))
        for sample in samples
    ]
    return f"{max(values):,.0f}" if any(values) else ""
