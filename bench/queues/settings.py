"""The settings of `make bench-relay` and `make bench-notify`, from the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.result import RESULTS
from bench.settings import (
    count_argument,
    counts_argument,
    name_argument,
    names_argument,
    positive_argument,
    python_argument,
    variant_argument,
    version_argument,
)
from bench.variants import Variant

RELAY_SCENARIOS = ("drain", "steady", "held-drain", "held-steady", "copies", "sizes")
NOTIFY_SCENARIOS = ("ingest", "away", "copies", "webhook")
RELAY_PEERS = ("usual-row", "usual-batch", "debezium")
EXAMPLES = """examples:
  python -m bench.queues relay --scenarios drain --peers usual-row,usual-batch,debezium
  python -m bench.queues relay --scenarios steady --rates 500,2000 --seconds 20
  python -m bench.queues relay --scenarios drain --events 200000 --commit before=HEAD~1
  python -m bench.queues notify --scenarios ingest --variant big:NOTIFYD_INGEST_BATCH=2000
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`seconds` is of a steady sample, `most_seconds` bounds a drain; sizes are of payloads."""

    daemon: str
    scenarios: tuple[str, ...]
    rounds: int
    events: int
    seconds: float
    most_seconds: float
    rates: tuple[int, ...]
    held_rate: int
    copies: tuple[int, ...]
    size: int
    sizes: tuple[int, ...]
    webhook_events: int
    warm_events: int
    label: str
    is_trial: bool
    variants: tuple[Variant, ...]
    peers: tuple[str, ...]
    results: Path | None


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Ends the process with exit code 2 and a line about a wrong argument."""
    parser = _parser()
    found = parser.parse_args(arguments)
    known = RELAY_SCENARIOS if found.daemon == "relay" else NOTIFY_SCENARIOS
    scenarios = found.scenarios or known
    for chosen, possible in ((scenarios, known), (found.peers, _peers(found.daemon))):
        if unknown := set(chosen) - set(possible):
            parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(possible)}")
    own = Variant(name=f"{found.daemon}d" if found.daemon == "relay" else "notifyd")
    return Settings(
        daemon=found.daemon,
        scenarios=scenarios,
        rounds=found.rounds,
        events=found.events,
        seconds=found.seconds,
        most_seconds=found.most_seconds,
        rates=found.rates,
        held_rate=found.held_rate,
        copies=found.copies,
        size=found.size,
        sizes=found.sizes,
        webhook_events=found.webhook_events,
        warm_events=found.warm_events,
        label=found.label or found.daemon,
        is_trial=found.trial,
        variants=(own, *found.variant, *found.commit, *found.python),
        peers=found.peers,
        results=None if found.no_result else found.results,
    )


def _peers(daemon: str) -> tuple[str, ...]:
    return RELAY_PEERS if daemon == "relay" else ()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.queues", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("daemon", choices=("relay", "notify"))
    add("--scenarios", type=names_argument, default=(),
        help=f"of {','.join((*RELAY_SCENARIOS, *NOTIFY_SCENARIOS))}; all")  # fmt: skip
    add("--rounds", type=count_argument, default=3, help="samples of each, interleaved; 3")
    add("--events", type=count_argument, default=1_000_000, help="of a drain; 1,000,000")
    add("--seconds", type=positive_argument, default=15.0, help="of a steady sample; 15")
    add("--most-seconds", type=positive_argument, default=60.0,
        help="of a drain, which counts as far as it came by then; 60")  # fmt: skip
    add("--rates", type=counts_argument, default=(500, 2_000, 10_000), help="500,2000,10000")
    add("--held-rate", type=count_argument, default=800, help="beside an old snapshot; 800")
    add("--copies", type=counts_argument, default=(1, 2, 4), help="of the daemon; 1,2,4")
    add("--size", type=count_argument, default=400, help="bytes of a payload; 400")
    add("--sizes", type=counts_argument, default=(64, 1024, 8192, 65536), help="bytes")
    add("--webhook-events", type=count_argument, default=20_000, help="end to end; 20,000")
    add("--warm-events", type=count_argument, default=300_000, help="for the broker; 300,000")
    add("--label", type=name_argument, default=None, help="names the run in the report")
    add("--trial", action="store_true", help="the machine is shared")
    add("--variant", type=variant_argument, action="append", default=[],
        metavar="NAME:VAR=VALUE,…", help="another with these settings; repeatable")  # fmt: skip
    add("--commit", type=version_argument, action="append", default=[],
        metavar="NAME=REVISION", help="another from this commit; repeatable")  # fmt: skip
    add("--python", type=python_argument, action="append", default=[],
        metavar="NAME=PATH", help="another under this interpreter; repeatable")  # fmt: skip
    add("--peers", type=names_argument, default=(), help=f"of {','.join(RELAY_PEERS)}; none")
    add("--results", type=Path, default=RESULTS, help="folder of the result file")
    add("--no-result", action="store_true", help="print the table and write no file")
    return parser
