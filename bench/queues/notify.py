"""The scenarios of notifyd: a topic full of events is taken in, and delivered.

The topic is filled once; every sample reads it from the start as a consumer group of its own, into
a database of its own. `ingest` and `copies`: the only receiver is away, so deliveries are queued and
wait; the clock runs from the first event in the inbox until all are in. `webhook`: the receiver
answers at once, and the clock runs until the last delivery is there.
"""

import base64
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.contestants import Variant, source
from bench.machine import PROJECT
from bench.queues.prefill import prefill
from bench.queues.rig import Rig
from bench.queues.samples import Account, sample_of, until
from bench.queues.settings import Settings
from bench.result import Figures, Sample
from deploy.local.child import Child, Program, StartError
from deploy.local.loopback import get
from deploy.local.ports import free_port

FIRST_SECONDS = 60.0
READY_SECONDS = 30.0
# No lock; one row of a sequence. One delivery an event, so it counts the events that are in.
DRAWN = "SELECT coalesce(pg_sequence_last_value('delivery_id_seq'), 0)"
# Signs deliveries to a receiver of our own, on loopback, and protects nothing.
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
COUNTS = "SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM delivery)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`receiver` empty: the webhook's address, where nobody listens."""

    scenario: str
    topic: str
    events: int
    seconds: float
    delivers: bool


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
        )  # fmt: skip

    def _sample(self, load: Load, variant: Variant, copies: int, number: int) -> Sample:
        name = variant.name if load.scenario != "notify-copies" else f"{variant.name}-{copies}"
        self._say(f"{load.scenario}, round {number}: {name}")
        database = self._rig.new_name()
        url = self._rig.create_database(database)
        self.described[name] = {
            "name": name, "what": "notifyd", "copies": copies, "commit": variant.commit,
            "environment": dict(variant.environment), "patch": variant.patch,
        }  # fmt: skip
        receiver = self._receiver() if load.delivers else None
        children: list[Child] = []
        try:
            webhook = receiver[1] if receiver else f"http://127.0.0.1:{free_port()}/"
            for copy in range(copies):
                child = self._notifyd(load, variant, url, webhook, f"{name}-{copy}", database)
                children.append(child)
            sample = self._watch(load, name, number, url, children, receiver)
        finally:
            for child in children:
                child.kill()
            if receiver is not None:
                receiver[0].kill()
            self._rig.drop(database)
        self._say(f"{load.scenario}, round {number}: {name}: {sample.figures.rate:,.0f}/s")
        return sample

    def _watch(
        self,
        load: Load,
        name: str,
        number: int,
        url: str,
        children: Sequence[Child],
        receiver: tuple[Child, str] | None,
    ) -> Sample:
        with psycopg.connect(url, autocommit=True) as connection:

            def count() -> int:
                if receiver is not None:
                    answer = get(f"{receiver[1]}count")
                    return int(answer.body) if answer else 0
                row = connection.execute(DRAWN).fetchone()
                return int(row[0]) if row else 0

            if not until(lambda: count() > 0 or _ended(children), FIRST_SECONDS, 0.002):
                raise StartError(f"{name} took nothing in within {FIRST_SECONDS:g} s")
            account = Account(self._pids(children, receiver))
            began, before = time.monotonic(), count()
            until(lambda: count() >= load.events or _ended(children), load.seconds, every=0.02)
            seconds, found = time.monotonic() - began, count()
            # The ids of the last batch are drawn before it is committed.
            until(lambda: _rows(connection)[0] >= found, READY_SECONDS)
            inbox, waiting = _rows(connection)
        figures = Figures(
            generator="topic",
            seconds=round(seconds, 4),
            requests=min(found, load.events) - before,
            errors=_errors(load, inbox, waiting, found),
            latency=None,
            generator_cpu_seconds=0.0,
        )
        return sample_of(load.scenario, name, number, figures, account)

    def _notifyd(
        self, load: Load, variant: Variant, url: str, webhook: str, name: str, group: str
    ) -> Child:
        if variant.commit and variant.name not in self._trees:
            self._trees[variant.name] = source(variant, self._rig.folder)
        address = f"127.0.0.1:{free_port()}"
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "METRICS_ADDR": address,
            "DATABASE_URL": url,
            "KAFKA_BROKERS": self._rig.brokers,
            "KAFKA_TOPIC": load.topic,
            "KAFKA_DLQ_TOPIC": "dead",
            "KAFKA_GROUP_ID": group,
            "NOTIFYD_CHANNELS": "webhook",
            "NOTIFYD_WEBHOOK_URL": webhook,
            "NOTIFYD_WEBHOOK_SECRET": SECRET,
            **variant.environment,
        }
        child = Child(
            Program(
                name=name,
                command=[sys.executable, "-m", "notifyd"],
                environment=environment,
                log=self._rig.folder / f"{name}.log",
                directory=self._trees.get(variant.name, PROJECT),
            )
        )
        return child

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

    def _pids(
        self, children: Sequence[Child], receiver: tuple[Child, str] | None
    ) -> dict[str, list[int]]:
        found = {part: [pid] for part, pid in self._rig.pids.items()}
        if receiver is not None:
            found["generator"] = [receiver[0].pid]
        return {"service": [child.pid for child in children], **found}


def _rows(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    row = connection.execute(COUNTS).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _errors(load: Load, inbox: int, waiting: int, found: int) -> dict[str, int]:
    """Events that are not in the inbox once, or whose delivery is not queued."""
    if load.delivers:
        return {"undelivered": load.events - found} if found < load.events else {}
    return {"without_delivery": abs(inbox - waiting)} if inbox != waiting else {}


def _ended(children: Sequence[Child]) -> bool:
    for child in children:
        if child.exit_code() is not None:
            raise StartError(f"{child.program.name} ended: {child.last_words(3)}")
    return False
