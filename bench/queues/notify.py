"""The scenarios of notifyd, each sample a consumer group and a database of its own on one topic.

`ingest`, `copies`: no receiver wants the events, so they go into the inbox alone. `away`: the only
receiver is away, and a delivery of each waits for it. The clock runs from the first event in the
inbox until all are in; in `webhook`, whose receiver answers at once, from the first delivery on.
"""

import base64
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from bench.machine import PROJECT
from bench.queues.prefill import prefill
from bench.queues.rig import Rig
from bench.queues.samples import Account, ended, sample_of, until
from bench.queues.settings import Settings
from bench.result import Figures, Sample
from bench.variants import Variant, source
from deploy.local.child import Child, Program, StartError
from deploy.local.loopback import get
from deploy.local.ports import free_port

FIRST_SECONDS = 60.0
READY_SECONDS = 30.0
INGESTED = re.compile(rb"^notifyd_ingested_total (\S+)", re.MULTILINE)
NOBODY = "nobody.asks"
# Signs deliveries to a receiver of our own, on loopback, and protects nothing.
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
COUNTS = """
SELECT (SELECT count(*) FROM inbox),
       (SELECT count(*) FROM delivery) + (SELECT count(*) FROM delivery_done)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`delivers`: somebody listens. `wanted`: the event types that are to be delivered."""

    scenario: str
    topic: str
    events: int
    seconds: float
    delivers: bool
    wanted: str


@dataclass(slots=True, kw_only=True)
class Stage:
    """One sample's processes. `receiver` with its address, None when nobody listens."""

    load: Load
    name: str
    url: str
    group: str
    receiver: tuple[Child, str] | None
    children: list[Child] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)

    def count(self) -> int:
        """Deliveries that the receiver got, or else events that are in the inbox."""
        if self.receiver is not None:
            answer = get(f"{self.receiver[1]}count")
            return int(answer.body) if answer else 0
        answers = [get(f"http://{address}/metrics") for address in self.addresses]
        found = [INGESTED.search(answer.body) for answer in answers if answer]
        return sum(int(float(match[1])) for match in found if match)

    def ended(self) -> bool:
        """False. Raises StartError when one of them has ended."""
        return ended(self.children)


class NotifyRun:
    """`say` takes a line of progress."""

    def __init__(self, rig: Rig, say: Callable[[str], None]) -> None:
        self._rig = rig
        self._say = say
        self._trees: dict[str, Path] = {}
        self.left_out: dict[str, str] = {}
        self.described: dict[str, Mapping[str, Any]] = {}

    def samples(self, settings: Settings) -> Iterator[Sample]:
        for name in settings.scenarios:
            load = self._load(name, settings)
            copies = settings.copies if name == "copies" else (1,)
            for number in range(1, settings.rounds + 1):
                for variant in settings.variants[: 1 if name == "copies" else None]:
                    for count in copies:
                        yield self._sample(load, variant, count, number)

    def _load(self, name: str, settings: Settings) -> Load:
        delivers = name == "webhook"
        events = settings.webhook_events if delivers else settings.events
        topic = f"events{events}"
        self._say(f"{name}: filling a topic with {events:,} events")
        self._rig.create_topic(topic)
        prefill(self._rig.brokers, topic, events, settings.size)
        return Load(
            scenario=f"notify-{name}", topic=topic, events=events,
            seconds=settings.most_seconds, delivers=delivers,
            wanted=NOBODY if name in {"ingest", "copies"} else "*",
        )  # fmt: skip

    def _sample(self, load: Load, variant: Variant, copies: int, number: int) -> Sample:
        name = variant.name if load.scenario != "notify-copies" else f"{variant.name}-{copies}"
        self._say(f"{load.scenario}, round {number}: {name}")
        database = self._rig.new_name()
        url = self._rig.create_database(database)
        own = {"name": name, "what": "notifyd", "copies": copies}
        self.described[name] = variant.description() | own
        receiver = self._receiver() if load.delivers else None
        stage = Stage(load=load, name=name, url=url, group=database, receiver=receiver)
        try:
            for _ in range(copies):
                self._start(stage, variant)
            sample = self._watch(stage, number)
        finally:
            for child in stage.children:
                child.kill()
            if receiver is not None:
                receiver[0].kill()
            self._rig.drop(database)
        self._say(f"{load.scenario}, round {number}: {name}: {sample.figures.rate:,.0f}/s")
        return sample

    def _watch(self, stage: Stage, number: int) -> Sample:
        load, name = stage.load, stage.name
        if not until(lambda: stage.count() > 0 or stage.ended(), FIRST_SECONDS, 0.01):
            raise StartError(f"{name} took nothing in within {FIRST_SECONDS:g} s")
        account = Account(self._pids(stage))
        began, before = time.monotonic(), stage.count()
        until(lambda: stage.count() >= load.events or stage.ended(), load.seconds, every=0.05)
        seconds, found = time.monotonic() - began, stage.count()
        figures = Figures(
            generator="topic",
            seconds=round(seconds, 4),
            requests=min(found, load.events) - before,
            errors=_errors(stage, found),
            latency=None,
            generator_cpu_seconds=0.0,
        )
        return sample_of(load.scenario, name, number, figures, account)

    def _start(self, stage: Stage, variant: Variant) -> None:
        if variant.commit and variant.name not in self._trees:
            self._trees[variant.name] = source(variant, self._rig.folder)
        address = f"127.0.0.1:{free_port()}"
        webhook = stage.receiver[1] if stage.receiver else f"http://127.0.0.1:{free_port()}/"
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "METRICS_ADDR": address,
            "DATABASE_URL": stage.url,
            "KAFKA_BROKERS": self._rig.brokers,
            "KAFKA_TOPIC": stage.load.topic,
            "KAFKA_DLQ_TOPIC": "dead",
            "KAFKA_GROUP_ID": stage.group,
            "NOTIFYD_CHANNELS": "webhook",
            "NOTIFYD_WEBHOOK_URL": webhook,
            "NOTIFYD_WEBHOOK_SECRET": SECRET,
            "NOTIFYD_WEBHOOK_EVENTS": stage.load.wanted,
            **variant.environment,
        }
        name = f"{stage.name}-{len(stage.children)}"
        program = Program(
            name=name,
            command=[variant.python, "-m", "notifyd"],
            environment=environment,
            log=self._rig.folder / f"{name}.log",
            directory=self._trees.get(variant.name, PROJECT),
        )
        stage.children.append(Child(program))
        stage.addresses.append(address)

    def _receiver(self) -> tuple[Child, str]:
        port = free_port()
        url = f"http://127.0.0.1:{port}/"
        child = Child(
            Program(
                name="receiver",
                command=[sys.executable, "-m", "bench.queues.receiver", str(port)],
                environment={"PATH": os.defpath},
                log=self._rig.folder / "receiver.log",
                directory=PROJECT,
            )
        )
        child.wait_ready(lambda: get(f"{url}count") is not None, READY_SECONDS)
        return child, url

    def _pids(self, stage: Stage) -> dict[str, list[int]]:
        found = {part: [pid] for part, pid in self._rig.pids.items()}
        if stage.receiver is not None:
            found["generator"] = [stage.receiver[0].pid]
        return {"service": [child.pid for child in stage.children], **found}


def _errors(stage: Stage, found: int) -> dict[str, int]:
    """Events that are not in the inbox once, or whose delivery is neither queued nor done."""
    with psycopg.connect(stage.url, autocommit=True) as connection:
        row = connection.execute(COUNTS).fetchone()
    assert row is not None
    inbox, deliveries = int(row[0]), int(row[1])
    wanted = inbox if stage.load.wanted != NOBODY else 0
    return {
        name: count
        for name, count in (
            ("not_taken_in", max(0, found - inbox)),
            ("without_delivery", abs(wanted - deliveries)),
        )
        if count
    }
