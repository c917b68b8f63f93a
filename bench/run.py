"""One run: the servers, the contestants, and the samples in their order.

Scenario by scenario, round by round, contestant by contestant (A B A B), so that what disturbs the
machine for a while disturbs all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import contestants
from bench.accounting import Accounts
from bench.agreement import Answers, answers_of, require_agreement
from bench.capacity import Target, Wrk
from bench.contestants import Distance, Service
from bench.exposition import batches, hit_share
from bench.open_load import OpenLoad
from bench.pgbench import RANDOM_ID, Pgbench, create_script, transaction_script
from bench.result import Figures, Sample
from bench.scenarios import SCENARIOS, Scenario
from bench.seed import make_database, outbox_lag, restore
from bench.settings import Settings
from bench.variants import LeftOutError
from deploy.local.postgres import Postgres
from deploy.local.valkey import Valkey
from ticketd.batches import CREATE

Say = Callable[[str], None]
# k6 takes 200 to 600 microseconds of CPU a request, from the same cores that are measured.
K6_RATE = 1000.0
# ticketd's own statement; the same with ids in no order; the same rows by two statements.
PGBENCH: Mapping[str, Callable[[], str]] = {
    "pgbench": partial(create_script, CREATE.text),
    "pgbench-uuid4": partial(create_script, CREATE.text, RANDOM_ID),
    "pgbench-transaction": transaction_script,
}
REFERENCE_LOADS = frozenset({"create"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A contestant with its database. `service` is None for pgbench alone."""

    name: str
    database_url: str
    loads: frozenset[str]
    service: Service | None
    pgbench: Pgbench | None = None


class Run:
    """`programs` is where PostgreSQL's are; `folder` for logs and outputs; `ids` the file of the
    seeded tickets; `say` takes a line of progress; `valkey` and `distance` are None when there is
    none."""

    def __init__(
        self,
        *,
        settings: Settings,
        server: Postgres,
        programs: Path,
        folder: Path,
        ids: Path,
        say: Say,
        valkey: Valkey | None = None,
        distance: Distance | None = None,
    ) -> None:
        self._distance = distance
        self._valkey = valkey
        self._settings = settings
        self._server = server
        self._programs = programs
        self._folder = folder
        self._ids = ids
        self._say = say
        self._wrk = Wrk(folder, settings.wrk_threads)
        self._open = OpenLoad(settings.open_connections, settings.seconds, folder)
        self._accounts = Accounts()
        self._capacities: dict[str, list[float]] = {}
        self._used: set[str] = set()
        self.entrants: list[Entrant] = []
        self.left_out: dict[str, str] = {}

    def start(self) -> None:
        """Start all contestants and have them give the same answers. Raises StartError,
        DisagreementError, GeneratorError."""
        for variant in self._settings.variants:
            make = partial(contestants.ticketd, variant, folder=self._folder)
            if self._valkey is not None:
                make = partial(make, redis_url=self._valkey.url())
            self._enter(variant.name, make)
        for name in self._settings.peers:
            if name in PGBENCH:
                self._enter_pgbench(name, PGBENCH[name]())
            elif name == "fastapi":
                self._enter(name, self._fastapi)
            else:
                self._enter(name, lambda url: contestants.go(url, self._folder))
        self._compare()

    def stop(self) -> None:
        for entrant in self.entrants:
            if entrant.service is not None:
                entrant.service.stop()

    def samples(self) -> Iterator[Sample]:
        """Raises GeneratorError."""
        for name in self._settings.scenarios:
            scenario = SCENARIOS[name]
            for number in range(1, self._settings.rounds + 1):
                for entrant in self.entrants:
                    if name in entrant.loads:
                        yield from self._round(name, scenario, number, entrant)

    def _enter(self, name: str, make: Callable[[str], Service]) -> None:
        url = make_database(self._server, name)
        try:
            service = make(self._reached(url))
        except LeftOutError as reason:
            self.left_out[name] = str(reason)
            self._say(f"left out: {name}: {reason}")
            return
        self.entrants.append(
            Entrant(name=name, database_url=url, loads=service.loads, service=service)
        )
        service.start()

    def _reached(self, url: str) -> str:
        """The URL by which services get to the database: through the distance, if there is one."""
        if self._distance is None:
            return url
        return url.replace(f":{self._server.port}/", f":{self._distance.port}/")

    def _fastapi(self, url: str) -> Service:
        return contestants.fastapi(url, self._folder, self._settings.fastapi_workers)

    def _enter_pgbench(self, name: str, script: str) -> None:
        url = make_database(self._server, name)
        pgbench = Pgbench(
            self._programs / "pgbench", self._folder, url, script, self._settings.jobs
        )
        self.entrants.append(
            Entrant(
                name=name,
                database_url=url,
                loads=REFERENCE_LOADS,
                service=None,
                pgbench=pgbench,
            )
        )

    def _compare(self) -> None:
        """Nobody is measured who does something else."""
        expected: Answers | None = None
        for entrant in self.entrants:
            if entrant.service is not None:
                target = self._target(entrant.service)
                found = answers_of(target.url, target.token, entrant.database_url)
                expected = expected or found
                require_agreement(entrant.name, expected, found)
                self._used.add(entrant.name)

    def _round(
        self, name: str, scenario: Scenario, number: int, entrant: Entrant
    ) -> Iterator[Sample]:
        if scenario.model == "closed":
            yield self._sample(name, number, entrant, lambda: self._closed(scenario, entrant))
            return
        capacity = self._capacity(entrant)
        shares: Sequence[float] = self._settings.shares
        if scenario.model == "overload":
            # At capacity first, with the same generator: that is what 3x is compared with.
            shares = (1.0, self._settings.overload)
        generator = self._settings.generator
        if generator == "auto":
            # One for all: they must not be compared through different generators.
            rivals = [self._capacity(rival) for rival in self.entrants if name in rival.loads]
            generator = "k6" if max(rivals) * max(shares) <= K6_RATE else "open"
        for share in shares:
            rate = capacity * share
            assert entrant.service is not None
            target = self._target(entrant.service)
            load = partial(self._open.load, generator, target, scenario.script, rate)
            yield self._sample(name, number, entrant, load)

    def _sample(
        self, name: str, number: int, entrant: Entrant, load: Callable[[], Figures]
    ) -> Sample:
        self._say(f"{name}, round {number}: {entrant.name}")
        scenario = SCENARIOS[name]
        self._prepare(scenario, entrant)
        service, database = entrant.service, self._server.child
        assert database is not None
        pids = {"database": database.pid} | ({"service": service.pid} if service else {})
        metrics = service.metrics() if service else ""
        machine = self._accounts.machine()
        before = {part: self._accounts.cpu_seconds(pid) for part, pid in pids.items()}
        own = time.process_time()
        figures = load()
        used = {part: self._accounts.cpu_seconds(pid) - before[part] for part, pid in pids.items()}
        used["generator"] = figures.generator_cpu_seconds
        after = self._accounts.machine()
        ours = sum(used.values()) + time.process_time() - own
        others = (after.busy - machine.busy - ours) / max(after.total - machine.total, 1e-9)
        if name == "create":
            self._capacities.setdefault(entrant.name, []).append(figures.rate)
        self._say(f"{name}, round {number}: {entrant.name}: {figures.rate:,.0f}/s")
        told = service.metrics() if service else ""
        return Sample(
            scenario=name,
            contestant=entrant.name,
            round=number,
            figures=figures,
            cpu_us={
                part: round(seconds * 1e6 / max(figures.requests, 1), 2)
                for part, seconds in used.items()
            },
            others_cpu=round(max(others, 0.0), 3),
            memory_mb=self._memory(pids),
            batches=batches(metrics, told),
            outbox=outbox_lag(entrant.database_url) if scenario.writes else {},
            cache_hits=hit_share(metrics, told),
        )

    def _prepare(self, scenario: Scenario, entrant: Entrant) -> None:
        """The same rows for everybody, and a warm-up that is not counted."""
        if entrant.name in self._used:
            restore(entrant.database_url)
            self._used.discard(entrant.name)
            if self._valkey is not None:
                self._valkey.flush()
        if scenario.writes:
            self._used.add(entrant.name)
        if entrant.service is not None:
            entrant.service.empty_log()
            self._wrk.load(
                self._target(entrant.service),
                scenario.script,
                connections=scenario.connections or 16,
                seconds=self._settings.warmup_seconds,
            )

    def _closed(self, scenario: Scenario, entrant: Entrant) -> Figures:
        seconds = self._settings.seconds
        if entrant.pgbench is not None:
            return entrant.pgbench.load(seconds)
        assert entrant.service is not None
        target = self._target(entrant.service)
        return self._wrk.load(
            target, scenario.script, connections=scenario.connections, seconds=seconds
        )

    def _capacity(self, entrant: Entrant) -> float:
        """Creates per second: as told, as measured in this run, or as measured now."""
        if self._settings.capacity is not None:
            return self._settings.capacity
        if entrant.name not in self._capacities:
            self._sample("create", 0, entrant, lambda: self._closed(SCENARIOS["create"], entrant))
        return statistics.median(self._capacities[entrant.name])

    def _memory(self, pids: dict[str, int]) -> dict[str, float]:
        found = {}
        for part, pid in pids.items():
            memory = self._accounts.memory(pid)
            found[f"{part}_rss"] = round(memory.rss, 1)
            if memory.pss is not None:
                found[f"{part}_pss"] = round(memory.pss, 1)
        return found

    def _target(self, service: Service) -> Target:
        return Target(url=service.url, token=service.token, ids=self._ids, keyed=service.keyed)
