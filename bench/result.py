"""The result file: what was measured, on what, with which settings, as JSON.

It holds raw samples; medians and ratios are worked out by whoever reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from bench.percentiles import Latency

FORMAT = 1
RESULTS = Path(__file__).with_name("results")


class ResultError(Exception):
    """A file is not a result of this format; the text names it and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a load generator saw. `requests` counts answered ones, `errors` among them by kind
    (connect, read, write, timeout, status or a status code). `offered` is the rate of an open
    model in requests per second, and `dropped` what it could not send in time. `latency` is of
    all answers, in an open model of the good ones only."""

    generator: str
    seconds: float
    requests: int
    errors: Mapping[str, int]
    latency: Latency | None
    generator_cpu_seconds: float
    offered: float | None = None
    dropped: int = 0

    @property
    def good(self) -> int:
        return max(self.requests - sum(self.errors.values()), 0)

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One contestant under one load in one round.

    `cpu_us` is CPU microseconds per answered request by process (service, database, generator);
    `others_cpu` the share of the machine that processes outside of the run used. `batches` is
    rows per statement by the histogram's name. `outbox` is rows and the age of the oldest.
    `cache_hits` is the share of reads that the cache answered.
    """

    scenario: str
    contestant: str
    round: int
    figures: Figures
    cpu_us: Mapping[str, float]
    others_cpu: float
    memory_mb: Mapping[str, float]
    batches: Mapping[str, float] = field(default_factory=dict)
    outbox: Mapping[str, float] = field(default_factory=dict)
    cache_hits: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of the bench. `kind` is "trial" on a machine that others used too, else "run"."""

    label: str
    kind: str
    date: datetime
    commit: str
    dirty: bool
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    contestants: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, str]
    samples: Sequence[Sample]

    @property
    def file_name(self) -> str:
        return f"{self.date:%Y%m%dT%H%M%S}-{self.label}.json"


def write_result(result: Result, folder: Path) -> Path:
    """The path of the new file; it appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / result.file_name
    half = path.with_suffix(".half")
    content = {"format": FORMAT, **asdict(result)}
    half.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    half.rename(path)
    return path


def read_result(path: Path) -> Result:
    """Raises ResultError."""
    try:
        content = orjson.loads(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise ResultError(f"{path.name} is of another format than {FORMAT}")
        content["date"] = datetime.fromisoformat(content["date"])
        content["samples"] = [_sample(found) for found in content["samples"]]
        return Result(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path.name} is not a result: {error!r}") from error


def read_results(folder: Path) -> list[Result]:
    """All results of a folder by date. Raises ResultError."""
    found = [read_result(path) for path in folder.glob("*.json")]
    return sorted(found, key=lambda result: result.date)


def _sample(content: dict[str, Any]) -> Sample:
    figures = content["figures"]
    latency = figures["latency"]
    figures["latency"] = None if latency is None else Latency(**latency)
    content["figures"] = Figures(**figures)
    return Sample(**content)
