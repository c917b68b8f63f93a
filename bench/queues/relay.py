"""The scenarios of relays: drains and steady rates, round by round, contestant by contestant."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import orjson
import psycopg

from bench.machine import PROJECT
from bench.percentiles import latency_of
from bench.queues.relays import Place, Relay
from bench.queues.rig import PARTITIONS, Rig
from bench.queues.rows import fill
from bench.queues.samples import Account, ended, sample_of, until
from bench.queues.topic import Listener, Watermarks
from bench.queues.writer import Orders
from bench.result import Figures, Sample
from bench.variants import LeftOutError
from deploy.local.child import Child, StartError
from servicedesk.bucket import BUCKETS

FIRST_SECONDS = 60.0
LAG_SECONDS = 15.0
WARMUP_SECONDS = 3.0
HELD = "-held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A load. `rate` None is a drain of `events`, for at most `seconds`. With `shared_out` the
    relays hold their shares of an empty outbox before it is full."""

    scenario: str
    seconds: float
    size: int
    events: int = 0
    rate: float | None = None
    held: bool = False
    shared_out: bool = False


class RelayRun:
    """`say` takes a line of progress."""

    def __init__(self, rig: Rig, say: Any) -> None:
        self._rig = rig
        self._say = say
        self.left_out: dict[str, str] = {}
        self.described: dict[str, Mapping[str, Any]] = {}

    def samples(self, work: Work, relays: Sequence[Relay], rounds: int) -> Iterator[Sample]:
        """Every round goes through all of `relays` (A B A B). With `held` each goes twice, the
        second time with an old snapshot held open."""
        for number in range(1, rounds + 1):
            for relay in relays:
                for held in (False, True) if work.held else (False,):
                    if relay.name not in self.left_out:
                        yield from self._sample(work, relay, number, held=held)

    def _sample(self, work: Work, relay: Relay, number: int, *, held: bool) -> Iterator[Sample]:
        name = relay.name + (HELD if held else "")
        self._say(f"{work.scenario}, round {number}: {name}: filling")
        place = self._place()
        try:
            relay.prepare(place)
            with ExitStack() as stack:
                if held:
                    stack.enter_context(old_snapshot(place.url))
                stack.callback(relay.stop, place)
                load = self._drain if work.rate is None else self._steady
                found = load(work, relay, place, name, number)
            self.described.setdefault(relay.name, relay.description())
            self._say(f"{work.scenario}, round {number}: {name}: {found.figures.rate:,.0f}/s")
            yield found
        except LeftOutError as reason:
            self.left_out[relay.name] = str(reason)
            self._say(f"left out: {relay.name}: {reason}")
        finally:
            self._rig.drop(place.name)

    def _place(self) -> Place:
        rig, name = self._rig, self._rig.new_name()
        rig.create_topic(name)
        url = rig.create_database(name)
        return Place(name=name, url=url, brokers=rig.brokers, folder=rig.folder)

    def _drain(self, work: Work, relay: Relay, place: Place, name: str, number: int) -> Sample:
        """The clock runs from the first records in the topic until all are there, and, where the
        relay deletes, until the outbox is empty."""
        if not work.shared_out:
            fill(place.url, relay.outbox, work.events, work.size)
        marks = Watermarks(place.brokers, place.name, PARTITIONS)
        children = relay.start(place)
        if work.shared_out:
            self._share_out(work, relay, place, children)
        self._say(f"{work.scenario}, round {number}: {name}: draining")
        if not until(lambda: marks.count() > 0 or ended(children), FIRST_SECONDS, 0.002):
            raise StartError(f"{name} published nothing in {FIRST_SECONDS:g} s")
        account = Account(self._pids(children))
        began, before = time.monotonic(), marks.count()
        until(lambda: marks.count() >= work.events or ended(children), work.seconds, every=0.02)
        count = marks.count()
        if relay.empties and count >= work.events:
            until(lambda: is_tail_empty(place.url, work.events), work.seconds, every=0.02)
        seconds = time.monotonic() - began
        errors = {"repeated": count - work.events} if count > work.events else {}
        if relay.empties and count >= work.events and (left := rows_left(place.url)):
            errors["left"] = left
        figures = Figures(
            generator="outbox",
            seconds=round(seconds, 4),
            requests=min(count, work.events) - before,
            errors=errors,
            latency=None,
            generator_cpu_seconds=0.0,
        )
        return sample_of(work.scenario, name, number, figures, account)

    def _share_out(self, work: Work, relay: Relay, place: Place, children: Sequence[Child]) -> None:
        """Copies that start on a full outbox would measure how buckets change hands: the first one
        takes them all, and the others wait for what it has under way."""
        copies = len(children)
        if not until(lambda: is_shared_out(place.url, copies) or ended(children), FIRST_SECONDS):
            raise StartError(f"{relay.name} have not shared the outbox in {FIRST_SECONDS:g} s")
        fill(place.url, relay.outbox, work.events, work.size, at_once=True)

    def _steady(self, work: Work, relay: Relay, place: Place, name: str, number: int) -> Sample:
        """Latency of what was committed after the warm-up; events that did not come are errors."""
        assert work.rate is not None
        marks = Watermarks(place.brokers, place.name, PARTITIONS)
        listener = Listener(place.brokers, place.name, PARTITIONS)
        try:
            children = relay.start(place)
            self._warm(work, relay, place, marks)
            account = Account(self._pids(children))
            self._say(f"{work.scenario}, round {number}: {name}: {work.rate:,.0f} events/s")
            before = listener.received
            listener.since = time.time()
            written = self._write(work, relay, place, work.seconds)
            events = int(written["events"])
            until(lambda: listener.received - before >= events, LAG_SECONDS, every=0.02)
            missing = events - (listener.received - before)
            figures = Figures(
                generator="writer",
                seconds=round(written["seconds"], 4),
                requests=events,
                errors={"not_in_time": missing} if missing > 0 else {},
                latency=latency_of(listener.milliseconds),
                generator_cpu_seconds=round(written["cpu_seconds"], 3),
                offered=work.rate,
                dropped=int(written["late"]),
            )
            extra = {"generator": written["cpu_seconds"]}
            return sample_of(work.scenario, name, number, figures, account, extra=extra)
        finally:
            listener.close()

    def _warm(self, work: Work, relay: Relay, place: Place, marks: Watermarks) -> None:
        """Until the relay is seen to work, and a little longer."""
        self._write(work, relay, place, 0.2)
        if not until(lambda: marks.count() > 0, FIRST_SECONDS):
            raise StartError(f"{relay.name} published nothing in {FIRST_SECONDS:g} s")
        self._write(work, relay, place, WARMUP_SECONDS)
        time.sleep(0.5)

    def _write(self, work: Work, relay: Relay, place: Place, seconds: float) -> dict[str, float]:
        assert work.rate is not None
        orders = Orders(
            url=place.url, table=relay.outbox.table, rate=work.rate, seconds=seconds,
            size=work.size,
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "bench.queues.writer"],
            input=orjson.dumps(asdict(orders)),
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            timeout=seconds + 60,
            check=True,
        )
        found: dict[str, float] = orjson.loads(done.stdout)
        return found

    def _pids(self, children: Sequence[Child]) -> dict[str, list[int]]:
        servers = {part: [pid] for part, pid in self._rig.pids.items()}
        return {"service": [child.pid for child in children], **servers}


# No lock. The primary key, a few hundred entries a bucket: what is left of the last events.
TAIL = """
SELECT count(*) FROM generate_series(0, 63) AS bucket
CROSS JOIN LATERAL (SELECT FROM outbox WHERE outbox.bucket = bucket.bucket AND id > %(floor)s
                    ORDER BY id LIMIT 1) AS found
"""
TAIL_ROWS = 20_000


def is_tail_empty(url: str, events: int) -> bool:
    """The last rows are gone; a scan of all that was deleted would disturb the clock."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(TAIL, {"floor": max(0, events - TAIL_ROWS)}).fetchone()
    return row is not None and row[0] == 0


def rows_left(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM outbox").fetchone()
    return int(row[0]) if row else 0


# No lock. Reads the whole of a table of 64 rows.
SHARES = "SELECT count(*) FROM outbox_bucket WHERE owner IS NOT NULL GROUP BY owner"


def is_shared_out(url: str, copies: int) -> bool:
    """Every bucket is held, and every copy has its share of them."""
    with psycopg.connect(url, autocommit=True) as connection:
        shares = [int(row[0]) for row in connection.execute(SHARES)]
    return len(shares) == copies and sum(shares) == BUCKETS and max(shares) <= -(-BUCKETS // copies)


@contextmanager
def old_snapshot(url: str) -> Iterator[None]:
    """A transaction that has read something and then does nothing for as long as this is open."""
    with psycopg.connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM outbox")
        yield
