"""`python -m bench.queues relay|notify`: measure, write one result file, print the table."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from bench.machine import commit, machine, output_of, package_versions
from bench.progress import Progress
from bench.queues import debezium
from bench.queues.notify import NotifyRun
from bench.queues.relay import RelayRun, Work
from bench.queues.relays import Debezium, Relay, Relayd, Usual
from bench.queues.rig import Rig
from bench.queues.settings import Settings, parse_settings
from bench.queues.table import table
from bench.result import Result, Sample
from bench.session import run_session
from deploy.local.child import StartError

# A drain of big payloads moves about so many bytes, not so many events.
SIZES_BYTES = 256 << 20


def main() -> int:
    settings = parse_settings(sys.argv[1:])
    return run_session(
        partial(measure, settings),
        table=table,
        results=settings.results,
        failures=(StartError, psycopg.Error, KafkaException, subprocess.SubprocessError, OSError),
    )


def measure(settings: Settings, folder: Path, progress: Progress) -> Result:
    """Start the servers, take the samples, stop everything."""
    now, found_machine, (revision, dirty) = datetime.now(UTC), machine(), commit()
    rig = Rig(
        folder,
        progress.say,
        with_logical="debezium" in settings.peers,
        warm_events=settings.warm_events,
    )
    samples: list[Sample] = []
    try:
        rig.start()
        run: RelayRun | NotifyRun
        if settings.daemon == "relay":
            run = relay = RelayRun(rig, progress.say)
            found = relay_samples(relay, settings)
        else:
            run = notify = NotifyRun(rig, progress.say)
            found = notify.samples(settings)
        samples.extend(found)
        versions = _versions(rig)
    finally:
        rig.stop()
    return Result(
        label=settings.label,
        kind="trial" if settings.is_trial or dirty else "run",
        date=now,
        commit=revision,
        dirty=dirty,
        machine=found_machine,
        versions=versions,
        settings=_described(settings, rig),
        contestants=list(run.described.values()),
        left_out=run.left_out,
        samples=samples,
    )


def relay_samples(run: RelayRun, settings: Settings) -> Iterator[Sample]:
    own: list[Relay] = [Relayd(variant=variant) for variant in settings.variants]
    every = [*own, *(peer(name) for name in settings.peers)]
    for work, relays in works(settings, own, every):
        yield from run.samples(work, relays, settings.rounds)


def peer(name: str) -> Relay:
    return Debezium() if name == "debezium" else Usual(by=name.removeprefix("usual-"))


def works(
    settings: Settings, own: list[Relay], every: list[Relay]
) -> Iterator[tuple[Work, list[Relay]]]:
    """Each load with those who carry it, in the order of the settings."""
    most, size, events = settings.most_seconds, settings.size, settings.events
    for name in settings.scenarios:
        scenario = f"relay-{name}"
        if name == "drain":
            yield Work(scenario=scenario, seconds=most, size=size, events=events), every
        elif name == "held-drain":
            yield Work(scenario=scenario, seconds=most, size=size, events=events, held=True), own
        elif name == "steady":
            for rate in settings.rates:
                work = Work(scenario=scenario, seconds=settings.seconds, size=size, rate=rate)
                yield work, every
        elif name == "held-steady":
            rate = settings.held_rate
            seconds = settings.seconds
            yield Work(scenario=scenario, seconds=seconds, size=size, rate=rate, held=True), own
        elif name == "copies":
            work = Work(
                scenario=scenario, seconds=most, size=size, events=events, shared_out=True,
            )  # fmt: skip
            yield (
                work,
                [
                    Relayd(variant=settings.variants[0], copies=n, name=f"relayd-{n}")
                    for n in settings.copies
                ],
            )
        else:
            for each in settings.sizes:
                work = Work(
                    scenario=f"relay-size-{each}", seconds=most, size=each,
                    events=min(events, SIZES_BYTES // each),
                )  # fmt: skip
                yield work, own


def _described(settings: Settings, rig: Rig) -> dict[str, Any]:
    """Without what is told elsewhere in the result."""
    found = asdict(settings) | {"postgresql": rig.settings}
    for name in ("variants", "results", "label", "is_trial"):
        del found[name]
    return found


def _versions(rig: Rig) -> dict[str, str]:
    with psycopg.connect(rig.postgres.url("postgres")) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    found = package_versions() | {"postgresql": str(row[0]) if row else ""}
    for name, directory, jar in (
        ("kafka", rig.kafka.jars.directory, "kafka_2.13"),
        ("debezium", debezium.jars(os.environ).directory, "debezium-api"),
    ):
        for path in directory.glob(f"{jar}-*.jar"):
            found[name] = path.stem.removeprefix(f"{jar}-")
    if said := output_of(["java", "-version"]):
        found["java"] = said.splitlines()[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
