"""The settings of a run, from the command line."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.machine import python_build
from bench.result import RESULTS
from bench.scenarios import SCENARIOS
from bench.seed import DESCRIPTION, description_of
from bench.variants import LeftOutError, Variant, base_of
from ticketd.tickets import DESCRIPTION_CHARACTERS

PEERS = ("fastapi", "go", "pgbench", "pgbench-uuid4", "pgbench-transaction")
# As the value of a variant's REDIS_URL, the Redis of the run.
OWN_REDIS = "run"
NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
EXAMPLES = """examples:
  python -m bench --scenarios create,read --rounds 3 --seconds 5
  python -m bench --variant "lanes4:TICKETD_LANES=4" --scenarios create
  python -m bench --commit before=HEAD~1 --scenarios create,read --label lanes
  python -m bench --peers fastapi,go,pgbench --scenarios create,read
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Durations are of one sample. `shares` are of capacity, for the scenario latency."""

    scenarios: tuple[str, ...]
    rounds: int
    seconds: float
    warmup_seconds: float
    label: str
    is_trial: bool
    variants: tuple[Variant, ...]
    peers: tuple[str, ...]
    fastapi_workers: int
    tickets: int
    description_bytes: int | None
    wrk_threads: int
    jobs: int
    shares: tuple[float, ...]
    overload: float
    capacity: float | None
    distance_milliseconds: float
    generator: str
    open_connections: int
    results: Path | None

    @property
    def description(self) -> str:
        """Of every ticket that is there at the start."""
        size = self.description_bytes
        return DESCRIPTION if size is None else description_of(size)


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Ends the process with exit code 2 and a line about a wrong argument."""
    parser = _parser()
    found = parser.parse_args(arguments)
    size = found.description_bytes
    if size is not None and len(description_of(size)) > DESCRIPTION_CHARACTERS:
        parser.error(
            f"argument --description-bytes: {size:,} bytes are more than the "
            f"{DESCRIPTION_CHARACTERS:,} characters of a description; give fewer, such as 6000"
        )
    return Settings(
        scenarios=found.scenarios,
        rounds=found.rounds,
        seconds=found.seconds,
        warmup_seconds=found.warmup,
        label=found.label,
        is_trial=found.trial,
        variants=_variants(found),
        peers=found.peers,
        fastapi_workers=found.fastapi_workers,
        tickets=found.tickets,
        description_bytes=found.description_bytes,
        wrk_threads=found.wrk_threads,
        jobs=found.jobs,
        shares=found.shares,
        overload=found.overload,
        capacity=found.capacity,
        distance_milliseconds=found.distance,
        generator=found.generator,
        open_connections=found.open_connections,
        results=None if found.no_result else found.results,
    )


def _variants(found: argparse.Namespace) -> tuple[Variant, ...]:
    """Every way to run ticketd, with each number of workers; this tree as it ships comes first."""
    ways = [] if found.without_ticketd else [Variant(name="ticketd")]
    ways += [*found.variant, *found.commit, *found.study, *found.python]
    if found.redis:
        ways += [replace(way, name=f"{way.name}-redis", redis=True) for way in ways]
    if found.keyed:
        ways += [replace(way, name=f"{way.name}-keyed", keyed=True) for way in ways]
    if found.workers == (1,):
        return tuple(ways)
    return tuple(
        replace(
            way,
            name=f"{way.name}-{workers}w",
            environment={**way.environment, "TICKETD_WORKERS": str(workers)},
        )
        for way in ways
        for workers in found.workers
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    known = ",".join(SCENARIOS)
    add("--scenarios", type=_scenarios, default=tuple(SCENARIOS), help=f"of {known}; all of them")
    add("--rounds", type=count_argument, default=3, help="samples of each, interleaved; 3")
    add("--seconds", type=positive_argument, default=5.0, help="of load in a sample; 5")
    add(
        "--warmup",
        type=positive_argument,
        default=1.0,
        help="seconds of load before each sample; 1",
    )
    add("--label", type=name_argument, default="trial", help="names the iteration in the report")
    add("--trial", action="store_true", help="the machine is shared or the durations are short")
    add("--variant", type=variant_argument, action="append", default=[], metavar="NAME:VAR=VALUE,…",
        help="another ticketd with these settings, interleaved; repeatable; REDIS_URL=run is the "
        "run's own Redis")  # fmt: skip
    add("--commit", type=version_argument, action="append", default=[], metavar="NAME=REVISION",
        help="another ticketd from this commit, interleaved; repeatable")  # fmt: skip
    add("--python", type=python_argument, action="append", default=[], metavar="NAME=PATH",
        help="another ticketd under this interpreter, interleaved; repeatable")  # fmt: skip
    add("--study", type=_study, action="append", default=[], metavar="NAME",
        help="another ticketd: bench/studies/NAME.patch on its base; repeatable")  # fmt: skip
    add("--without-ticketd", action="store_true", help="only the variants, commits and peers")
    add("--distance", type=positive_argument, default=0.0, metavar="MILLISECONDS",
        help="round trip added between every service and PostgreSQL; none")  # fmt: skip
    add("--redis", action="store_true", help="every ticketd also beside a Redis of the run")
    add("--keyed", action="store_true",
        help="every ticketd also with an Idempotency-Key on each create (wrk only)")  # fmt: skip
    add("--workers", type=counts_argument, default=(1,), help="of each ticketd, such as 1,2,4; 1")
    add("--peers", type=_peers, default=(), help=f"of {','.join(PEERS)}; none")
    add("--fastapi-workers", type=count_argument, default=1, help="processes of uvicorn; 1")
    add(
        "--tickets",
        type=count_argument,
        default=100_000,
        help="in the table before each sample; 100,000",
    )
    add("--description-bytes", type=count_argument, default=None, help="of a ticket; about 350")
    add("--wrk-threads", type=count_argument, default=1, help="1")
    add("--jobs", type=count_argument, default=2, help="threads of pgbench; 2")
    add("--shares", type=_shares, default=(0.25, 0.5, 0.75, 0.9), help="0.25,0.5,0.75,0.9")
    add("--overload", type=positive_argument, default=3.0, help="times capacity; 3")
    add("--capacity", type=positive_argument, default=None,
        help="creates/s for latency and overload; else measured with wrk first")  # fmt: skip
    add("--generator", choices=("auto", "k6", "open"), default="auto",
        help="k6, or our open model, which costs less; auto: k6 for low rates")  # fmt: skip
    add(
        "--open-connections",
        type=count_argument,
        default=1000,
        help="of the open model at most; 1,000",
    )
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    add("--no-result", action="store_true", help="print the table and write no file")
    return parser


def count_argument(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def positive_argument(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def counts_argument(text: str) -> tuple[int, ...]:
    return tuple(count_argument(part) for part in text.split(","))


def _shares(text: str) -> tuple[float, ...]:
    return tuple(positive_argument(part) for part in text.split(","))


def names_argument(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _scenarios(text: str) -> tuple[str, ...]:
    return _among(text, tuple(SCENARIOS))


def _peers(text: str) -> tuple[str, ...]:
    return _among(text, PEERS)


def _among(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = names_argument(text)
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    return names


def name_argument(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("takes lower-case letters, digits and . + _ -")
    return text


def variant_argument(text: str) -> Variant:
    name, _, assignments = text.partition(":")
    environment = {}
    for assignment in filter(None, assignments.split(",")):
        variable, equals, value = assignment.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{assignment} is not VARIABLE=VALUE")
        environment[variable] = value
    redis = environment.pop("REDIS_URL", "") == OWN_REDIS
    return Variant(name=name_argument(name), environment=environment, redis=redis)


def _study(text: str) -> Variant:
    try:
        return Variant(
            name=name_argument(text), commit=base_of(f"{text}.patch"), patch=f"{text}.patch"
        )
    except LeftOutError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from reason


def python_argument(text: str) -> Variant:
    name, equals, path = text.partition("=")
    if not equals or not python_build(path):
        raise argparse.ArgumentTypeError(
            "is not NAME=PATH of an interpreter, such as other=.venv-other/bin/python"
        )
    # Not resolved: it is the link's place that tells it which packages are its own.
    return Variant(name=name_argument(name), python=str(Path(path).absolute()))


def version_argument(text: str) -> Variant:
    name, equals, revision = text.partition("=")
    if not equals or not revision or revision.startswith("-"):
        raise argparse.ArgumentTypeError("is not NAME=REVISION")
    return Variant(name=name_argument(name), commit=revision)
