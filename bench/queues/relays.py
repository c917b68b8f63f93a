"""Who relays: relayd and its variants, the usual ways, Debezium; each on rows of its own."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg

from bench.machine import PROJECT
from bench.queues import debezium
from bench.queues.rows import DEBEZIUM, OURS, USUAL, Outbox
from bench.variants import LeftOutError, Variant, source
from deploy.local.child import Child, Program
from deploy.local.loopback import get
from deploy.local.ports import free_port

READY_SECONDS = 30.0
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a sample gives its contestant. `name` is that of the database and of the topic."""

    name: str
    url: str
    brokers: str
    folder: Path


class Relay(Protocol):
    """A contestant. `outbox` is the table it reads."""

    @property
    def name(self) -> str: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def empties(self) -> bool:
        """Does it delete what is published?"""

    def prepare(self, place: Place) -> None:
        """Before the events are written. Raises LeftOutError or StartError."""

    def start(self, place: Place) -> list[Child]:
        """Returns when it is ready, or at once when that cannot be asked."""

    def stop(self, place: Place) -> None: ...

    def description(self) -> Mapping[str, Any]: ...


class Processes:
    """Children of one sample, stopped together."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    def stop(self) -> None:
        for child in self.children:
            child.send(child.program.death_signal)
        for child in self.children:
            child.stop(child.program.death_signal, STOP_SECONDS)
        self.children = []


@dataclass(kw_only=True)
class Relayd:
    """`copies` of relayd as it ships, or with a variant's settings or code."""

    variant: Variant
    copies: int = 1
    name: str = ""
    outbox: Outbox = OURS
    empties: bool = True
    tree: Path = PROJECT
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        self.name = self.name or self.variant.name

    def prepare(self, place: Place) -> None:
        if self.variant.commit and self.tree == PROJECT:
            self.tree = source(self.variant, place.folder)

    def start(self, place: Place) -> list[Child]:
        for number in range(self.copies):
            self.processes.children.append(self._child(place, number))
        return self.processes.children

    def _child(self, place: Place, number: int) -> Child:
        address = f"127.0.0.1:{free_port()}"
        environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "METRICS_ADDR": address,
            "DATABASE_URL": place.url,
            "KAFKA_BROKERS": place.brokers,
            "KAFKA_TOPIC": place.name,
            "KAFKA_DLQ_TOPIC": "dead",
            **self.variant.environment,
        }
        child = Child(
            Program(
                name=f"{self.name}-{number}",
                command=[self.variant.python, "-m", "relayd"],
                environment=environment,
                log=place.folder / f"{self.name}-{number}.log",
                directory=self.tree,
            )
        )
        child.wait_ready(lambda: is_ready(address), READY_SECONDS)
        return child

    def stop(self, place: Place) -> None:
        self.processes.stop()

    def description(self) -> Mapping[str, Any]:
        own = {"name": self.name, "what": "relayd", "copies": self.copies}
        return self.variant.description() | own


@dataclass(kw_only=True)
class Usual:
    """`by`: `row` flushes after each row, `batch` after each read."""

    by: str
    outbox: Outbox = USUAL
    empties: bool = False
    processes: Processes = field(default_factory=Processes)

    @property
    def name(self) -> str:
        return f"usual-{self.by}"

    def prepare(self, place: Place) -> None:
        execute(place.url, self.outbox.schema)

    def start(self, place: Place) -> list[Child]:
        program = Program(
            name=self.name,
            command=[
                sys.executable, "-m", "bench.queues.usual", self.by, place.url, place.brokers,
                place.name,
            ],
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            log=place.folder / f"{self.name}.log",
            directory=PROJECT,
        )  # fmt: skip
        self.processes.children.append(Child(program))
        return self.processes.children

    def stop(self, place: Place) -> None:
        self.processes.stop()

    def description(self) -> Mapping[str, Any]:
        return {"name": self.name, "what": f"SKIP LOCKED, status column, flush per {self.by}"}


@dataclass(kw_only=True)
class Debezium:
    """Kafka Connect standalone with the PostgreSQL connector and the outbox event router."""

    jvm: Sequence[str] = debezium.JVM
    name: str = "debezium"
    outbox: Outbox = DEBEZIUM
    empties: bool = False
    processes: Processes = field(default_factory=Processes)

    def prepare(self, place: Place) -> None:
        jars = debezium.jars(os.environ)
        if missing := jars.missing():
            raise LeftOutError(missing)
        jars.fetch(lambda line: None)
        execute(place.url, self.outbox.schema)
        for statement in debezium.PREPARE:
            execute(place.url, statement)

    def start(self, place: Place) -> list[Child]:
        program = debezium.program(place.url, place.brokers, place.name, place.folder)
        self.processes.children.append(Child(program))
        return self.processes.children

    def stop(self, place: Place) -> None:
        self.processes.stop()
        execute(place.url, debezium.END)

    def description(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "what": "Debezium's outbox event router in Kafka Connect standalone",
            "jvm": list(self.jvm),
            "connector": dict(debezium.TUNING),
            "worker": dict(debezium.WORKER_TUNING),
        }


def is_ready(address: str) -> bool:
    answer = get(f"http://{address}/readyz")
    return answer is not None and answer.status == 200


def execute(url: str, statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements.encode())
