"""`python -m bench.report`: docs/performance.md, docs/charts/, the tables in docs/iterations/ and
docs/delivery.md.

Nothing is measured here and nothing is typed in; the same files give the same pages.
"""

import sys
from collections.abc import Callable, Sequence

from bench.charts import Bar, Line, bars, lines, number_text
from bench.delivery import FAULTS, fill_scenarios, read_scenarios
from bench.iterations import fill
from bench.machine import PROJECT
from bench.percentiles import Spread, ratios, spread_of
from bench.queues.report import described, is_of_queues
from bench.queues.report import sections as queue_sections
from bench.result import RESULTS, Result, ResultError, Sample, read_results
from bench.table import groups, median
from bench.wanted import wanted_table

DOCS = PROJECT / "docs"
DELIVERY = DOCS / "delivery.md"
MAIN = "ticketd"
PEERS = ("go", "fastapi", "pgbench")
CLOSED = ("create", "read", "list", "patch", "mix", "alone")
OPEN = ("latency", "overload")
TABLE_HEADER = (
    "| scenario | contestant | offered/s | requests/s | p50 ms | p99 ms | p99.9 ms | errors "
    "| dropped | CPU µs | of PostgreSQL | of the generator | generator |"
)
INTRODUCTION = """<!-- Drawn by `make bench-report` from bench/results/; edits are lost. -->
# Performance

How it is measured, and what every column means, is in [bench/README.md](../bench/README.md). A
*trial* is a run on a machine that others used at the same time, or of a tree with changes: its CPU
figures and ratios hold, its rates and latencies only roughly. In brackets: the lowest and the
highest of the rounds."""


def report(results: Sequence[Result]) -> tuple[str, dict[str, str]]:
    """The page, and the charts by file name."""
    charts: dict[str, str] = {}
    sections = [INTRODUCTION]
    if not results:
        return "\n\n".join([*sections, "There are no results yet: `make bench`."]) + "\n", charts
    http = [result for result in results if not is_of_queues(result)]
    sections.append(_wanted(results))
    for make in (_peers, _latency, _overload, _iterations, _newest):
        if http and (section := make(http, charts)):
            sections.append(section)
    if queues := queue_sections([result for result in results if is_of_queues(result)]):
        sections.append(queues)
    return "\n\n".join(sections) + "\n", charts


def main() -> int:
    try:
        results = read_results(RESULTS)
        page, charts = report(results)
        delivery = fill_scenarios(DELIVERY.read_text(encoding="utf-8"), read_scenarios(FAULTS))
        named = {result.file_name: result for result in results}
        iterations = {
            path: fill(path.read_text(encoding="utf-8"), named, _described)
            for path in sorted((DOCS / "iterations").glob("*.md"))
        }
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = DOCS / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (folder / name).write_text(chart)
    for old in set(folder.glob("bench-*.svg")) - {folder / name for name in charts}:
        old.unlink()
    (DOCS / "performance.md").write_text(page)
    DELIVERY.write_text(delivery, encoding="utf-8")
    for path, text in iterations.items():
        path.write_text(text, encoding="utf-8")
    print(
        f"docs/performance.md, docs/delivery.md, {len(charts)} charts, {len(iterations)} iterations"
    )
    return 0


def _wanted(results: Sequence[Result]) -> str:
    explanation = (
        "From the newest run that has it, which says whether it is met, and from the best one: the "
        "speed of the machine changes by the hour, and with it all that is no ratio. Medians of "
        "the rounds, ratios taken round by round. What is missed is told in "
        "[iterations](iterations/README.md)."
    )
    return f"## What was wanted\n\n{explanation}\n\n{wanted_table(results)}"


def _peers(results: Sequence[Result], charts: dict[str, str]) -> str:
    result = _last(
        results, lambda found: any(_of(found, "create", peer) for peer in ("go", "fastapi"))
    )
    if result is None:
        return ""
    parts = ["## Beside others", _facts(result)]
    for scenario in ("create", "read"):
        found = {key[1]: samples for key, samples in groups(result.samples).items()
                 if key[0] == scenario}  # fmt: skip
        if len(found) < 2:
            continue
        for name, title, value in (
            ("rate", f"{scenario}: requests per second", _rate),
            ("cpu", f"{scenario}: CPU microseconds of the service per request", _cpu),
        ):
            rows = [
                Bar(label=contestant, value=spread, colour=int(not contestant.startswith(MAIN)))
                for contestant, samples in found.items()
                if (spread := value(samples)) is not None
            ]
            charts[f"bench-peers-{scenario}-{name}.svg"] = bars(title, rows)
            parts.append(f"![{title}](charts/bench-peers-{scenario}-{name}.svg)")
    parts.append(_ratios(result))
    return "\n\n".join(parts)


def _ratios(result: Result) -> str:
    """Of each ticketd to each peer, round by round."""
    rows = ["| ratio of requests per second | median | lowest | highest | rounds |",
            "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    names = list(dict.fromkeys(sample.contestant for sample in result.samples))
    for scenario in ("create", "read"):
        for own in (name for name in names if name not in PEERS):
            for peer in (name for name in names if name in PEERS):
                above, below = _of(result, scenario, own), _of(result, scenario, peer)
                if above and below:
                    ratio = ratios(_rates(above), _rates(below))
                    rows.append(
                        f"| {scenario}: {own} to {peer} | {ratio.median:.2f} | {ratio.lowest:.2f} "
                        f"| {ratio.highest:.2f} | {ratio.count} |"
                    )
    return "\n".join(rows)


def _latency(results: Sequence[Result], charts: dict[str, str]) -> str:
    result = _last(results, lambda found: any(s.scenario == "latency" for s in found.samples))
    if result is None:
        return ""
    series: dict[str, list[tuple[float, float]]] = {}
    for (scenario, contestant, offered), samples in groups(result.samples).items():
        if scenario == "latency" and offered is not None:
            for part in ("p50", "p99"):
                if spread := median(samples, part):
                    series.setdefault(f"{contestant} {part}", []).append((offered, spread.median))
    title = "Latency of creates against the offered load"
    charts["bench-latency.svg"] = lines(
        title, "requests per second offered", "milliseconds",
        [Line(label=name, points=sorted(points)) for name, points in series.items()],
    )  # fmt: skip
    heading = f"## Latency\n\nOpen model. {_facts(result)}\n\n![{title}](charts/bench-latency.svg)"
    return f"{heading}\n\n{_table(result, ('latency',))}"


def _overload(results: Sequence[Result], charts: dict[str, str]) -> str:
    result = _last(results, lambda found: any(s.scenario == "overload" for s in found.samples))
    if result is None:
        return ""
    facts = f"Open model, at capacity and beyond; refusals are errors here. {_facts(result)}"
    return f"## Overload\n\n{facts}\n\n{_table(result, ('overload',))}"


def _iterations(results: Sequence[Result], charts: dict[str, str]) -> str:
    rows = ["| run | date | commit | creates/s | CPU µs | reads/s | CPU µs | contestants |",
            "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |"]  # fmt: skip
    for result in results:
        cells = []
        for scenario in ("create", "read"):
            samples = _of(result, scenario, MAIN)
            cells += [_short(_rate(samples)), _short(_cpu(samples))]
        kind = " (trial)" if result.kind == "trial" else ""
        names = ", ".join(dict.fromkeys(sample.contestant for sample in result.samples))
        dirty = " + changes" if result.dirty else ""
        rows.append(
            f"| {result.label}{kind} | {result.date:%Y-%m-%d %H:%M} | {result.commit[:9]}{dirty} "
            f"| {' | '.join(cells)} | {names} |"
        )
    parts = ["## Iterations", "\n".join(rows)]
    for scenario in ("create", "read"):
        for name, title, value in (
            ("rate", f"{scenario} by iteration: requests per second", _rate),
            ("cpu", f"{scenario} by iteration: CPU microseconds per request", _cpu),
        ):
            found = [
                Bar(label=result.label, value=spread)
                for result in results
                if (spread := value(_of(result, scenario, MAIN))) is not None
            ]
            if found:
                charts[f"bench-iterations-{scenario}-{name}.svg"] = bars(title, found)
                parts.append(f"![{title}](charts/bench-iterations-{scenario}-{name}.svg)")
    return "\n\n".join(parts)


def _newest(results: Sequence[Result], charts: dict[str, str]) -> str:
    result = _last(results, lambda found: any(s.scenario in CLOSED for s in found.samples))
    if result is None:
        return ""
    machine = result.machine
    versions = ", ".join(f"{name} {text}" for name, text in sorted(result.versions.items()))
    return (
        "## The newest run of closed loads whole\n\n"
        f"{_facts(result)}\n\n{_table(result, CLOSED)}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb']:,} MB, kernel "
        f"{machine['kernel']}. {versions}."
    )


def _described(result: Result) -> str:
    if is_of_queues(result):
        return described(result)
    return f"{_facts(result)}\n\n{_table(result, (*CLOSED, *OPEN))}"


def _table(result: Result, scenarios: Sequence[str]) -> str:
    rows = [TABLE_HEADER, "| --- | --- " + "| ---: " * 10 + "| --- |"]
    for (scenario, contestant, offered), samples in groups(result.samples).items():
        if scenario in scenarios:
            latencies = [_short(median(samples, part)) for part in ("p50", "p99", "p999")]
            errors = sum(sum(sample.figures.errors.values()) for sample in samples)
            dropped = sum(sample.figures.dropped for sample in samples)
            cells = [
                scenario, contestant + _hits(samples),
                "" if offered is None else number_text(offered),
                _whole(_rate(samples)), *latencies, f"{errors:,}", f"{dropped:,}",
                *(_short(_cpu(samples, part)) for part in ("service", "database", "generator")),
                ", ".join(sorted({sample.figures.generator for sample in samples})),
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _hits(samples: Sequence[Sample]) -> str:
    shares = [sample.cache_hits for sample in samples if sample.cache_hits is not None]
    return f", {spread_of(shares).median:.0%} hits" if shares else ""


def _facts(result: Result) -> str:
    settings = result.settings
    left_out = "".join(f" Left out: {name} ({why})." for name, why in result.left_out.items())
    return (
        f"*{result.label}*, {result.date:%Y-%m-%d}, a {result.kind} at {result.commit[:9]}, "
        f"{settings['rounds']} rounds of {settings['seconds']:g} s.{left_out}"
    )


def _last(results: Sequence[Result], wanted: Callable[[Result], bool]) -> Result | None:
    return next((result for result in reversed(results) if wanted(result)), None)


def _of(result: Result, scenario: str, contestant: str) -> list[Sample]:
    return [
        sample
        for sample in result.samples
        if sample.scenario == scenario and sample.contestant == contestant
    ]


def _rates(samples: Sequence[Sample]) -> list[float]:
    return [sample.figures.rate for sample in samples]


def _rate(samples: Sequence[Sample]) -> Spread | None:
    return spread_of(_rates(samples)) if samples else None


def _cpu(samples: Sequence[Sample], part: str = "service") -> Spread | None:
    values = [sample.cpu_us[part] for sample in samples if part in sample.cpu_us]
    return spread_of(values) if values else None


def _short(spread: Spread | None) -> str:
    return "" if spread is None else number_text(spread.median)


def _whole(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.count == 1:
        return number_text(spread.median)
    low, high = number_text(spread.lowest), number_text(spread.highest)
    return f"{number_text(spread.median)} ({low}–{high})"


if __name__ == "__main__":
    sys.exit(main())
