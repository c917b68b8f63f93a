"""The table of a run: medians of the rounds, with the lowest and the highest."""

from collections.abc import Sequence

from bench.charts import number_text
from bench.percentiles import Spread, spread_of
from bench.result import Result, Sample
from bench.table import groups, median

PARTS = ("service", "database", "kafka", "generator")
HEADER = (
    "scenario", "contestant", "offered/s", "events/s", "lowest–highest", "p50 ms", "p99 ms",
    "errors", "late", "CPU µs", "of PostgreSQL", "of Kafka", "of the writer", "MB", "others",
)  # fmt: skip


def cells(key: tuple[str, str, float | None], samples: Sequence[Sample]) -> list[str]:
    """One line, in the order of HEADER."""
    scenario, contestant, offered = key
    rate = spread_of([sample.figures.rate for sample in samples])
    errors = sum(sum(sample.figures.errors.values()) for sample in samples)
    return [
        scenario,
        contestant,
        "" if offered is None else number_text(offered),
        number_text(rate.median),
        f"{number_text(rate.lowest)}–{number_text(rate.highest)}",
        *(_text(median(samples, part)) for part in ("p50", "p99")),
        f"{errors:,}",
        f"{sum(sample.figures.dropped for sample in samples):,}",
        *(_text(cpu(samples, part)) for part in PARTS),
        number_text(max(sample.memory_mb.get("service_rss", 0.0) for sample in samples)),
        f"{spread_of([sample.others_cpu for sample in samples]).median:.0%}",
    ]


def cpu(samples: Sequence[Sample], part: str) -> Spread | None:
    """Microseconds an event; None when no sample has this part."""
    values = [sample.cpu_us[part] for sample in samples if part in sample.cpu_us]
    return spread_of(values) if values else None


def table(result: Result) -> str:
    lines = [list(HEADER), *(cells(key, found) for key, found in groups(result.samples).items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _text(spread: Spread | None) -> str:
    return "" if spread is None else number_text(spread.median)
