"""The sections of docs/performance.md about relays and notifyd, drawn from result files."""

from collections.abc import Sequence

from bench.charts import number_text
from bench.percentiles import ratios
from bench.queues.table import HEADER, cells
from bench.result import Result, Sample
from bench.table import groups

PREFIXES = ("relay-", "notify-")
OWN = "relayd"
TITLES = {
    "relay-drain": "A full outbox",
    "relay-steady": "A steady rate",
    "relay-held-drain": "A full outbox beside an old snapshot",
    "relay-held-steady": "A steady rate beside an old snapshot",
    "relay-copies": "Several relayd",
    "relay-size": "Sizes of payloads",
    "notify-ingest": "A full topic, taken in, with no delivery of it",
    "notify-away": "A full topic, taken in with a delivery each, the receiver away",
    "notify-copies": "Several notifyd",
    "notify-webhook": "A full topic, delivered",
}
INTRODUCTION = """## Events: relays and notifyd

`make bench-relay` and `make bench-notify`; what the columns mean is in
[bench/README.md](../bench/README.md). Everything shares the machine's cores: the JVM of Apache
Kafka, PostgreSQL, the relay and whoever writes or listens."""


def is_of_queues(result: Result) -> bool:
    return any(sample.scenario.startswith(PREFIXES) for sample in result.samples)


def sections(results: Sequence[Result]) -> str:
    """For each scenario the newest run that has it, whole; "" when there is none."""
    parts = []
    for scenario, title in TITLES.items():
        for result in reversed(results):
            found = [sample for sample in result.samples if _is_of(sample, scenario)]
            if found:
                parts.append(_section(title, scenario, result, found))
                break
    return "\n\n".join([INTRODUCTION, *parts]) if parts else ""


def described(result: Result) -> str:
    """A whole run, for docs/iterations/."""
    return f"{facts(result)}\n\n{lines(result.samples)}"


def facts(result: Result) -> str:
    settings = result.settings
    left_out = "".join(f" Left out: {name} ({why})." for name, why in result.left_out.items())
    return (
        f"*{result.label}*, {result.date:%Y-%m-%d}, a {result.kind} at {result.commit[:9]}, "
        f"{settings['rounds']} rounds, drains of {settings['events']:,} events, payloads of "
        f"{settings['size']} bytes.{left_out}"
    )


def lines(samples: Sequence[Sample]) -> str:
    head = [f"| {' | '.join(HEADER)} |", "| --- | --- " + "| ---: " * (len(HEADER) - 2) + "|"]
    found = groups(samples).items()
    return "\n".join([*head, *(f"| {' | '.join(cells(key, each))} |" for key, each in found)])


def _is_of(sample: Sample, scenario: str) -> bool:
    return sample.scenario == scenario or sample.scenario.rpartition("-")[0] == scenario


def _section(title: str, scenario: str, result: Result, samples: Sequence[Sample]) -> str:
    parts = [f"### {title}", facts(result), lines(samples)]
    if scenario == "relay-drain" and (ratio := _ratios(samples)):
        parts.append(ratio)
    return "\n\n".join(parts)


def _ratios(samples: Sequence[Sample]) -> str:
    """Of relayd to each other contestant, round by round."""
    own = _rates(samples, OWN)
    names = dict.fromkeys(sample.contestant for sample in samples)
    rows = []
    for name in names:
        if own and name != OWN:
            ratio = ratios(own, _rates(samples, name))
            cells = (ratio.median, ratio.lowest, ratio.highest)
            rows.append(f"| {OWN} to {name} | {' | '.join(map(number_text, cells))} |")
    if not rows:
        return ""
    head = (
        "| ratio of events per second | median | lowest | highest |\n| --- | ---: | ---: | ---: |"
    )
    return "\n".join([head, *rows])


def _rates(samples: Sequence[Sample], name: str) -> list[float]:
    return [sample.figures.rate for sample in samples if sample.contestant == name]
