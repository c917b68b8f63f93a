"""What goes on beside a fault, a load on ticketd or events at a fixed rate; and what is left to do
when it is over.

Faults are done by the test's own thread: a daemon ends with the thread that started it.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Protocol, Self

import orjson

from bench.queues.writer import Orders, ticket_id
from tests.pipeline.pipeline import Pipeline
from tests.support.checker import Accepted, Verdict
from tests.support.load import Load
from tests.support.processes import PROJECT, Daemon, wait_until
from tests.support.topic_log import TopicRecord

ENDLESS = 1_000_000
MOST_SECONDS = 600.0
ASK_SECONDS = 0.2
# An event that waits longer than this in the outbox is held up by something.
FRESH = "interval '2 seconds'"


class BackgroundLoad:
    """A load in a thread of its own from the construction on; `finish` waits for its end."""

    def __init__(
        self,
        pipeline: Pipeline,
        ticketd: Daemon,
        *,
        tickets: int,
        events: int,
        rate: float | None = None,
    ) -> None:
        self._result: Load | None = None
        self._enough = threading.Event()

        def run() -> None:
            self._result = pipeline.load(
                ticketd, tickets=tickets, events=events, rate=rate, enough=self._enough.is_set
            )

        # A daemon thread, so that a test that has failed can end.
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def ends_within(self, seconds: float) -> bool:
        """Wait for so long; True as soon as it has ended. The clock of what is done meanwhile."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def goes_on_for(self, seconds: float) -> None:
        assert not self.ends_within(seconds), "the load has ended before the fault was over"

    def stop(self) -> None:
        """No further events; `finish` returns what there was."""
        self._enough.set()

    def finish(self, seconds: float) -> Load:
        assert self.ends_within(seconds), f"the load has not ended after {seconds:g} s"
        assert self._result is not None, "the load failed; its traceback is above"
        return self._result


class FixedRate:
    """Inside of a `with`, so many events a second are committed straight to the outbox by a process
    of its own, whether or not anybody keeps up."""

    def __init__(self, pipeline: Pipeline, rate: float) -> None:
        self._orders = Orders(
            url=pipeline.database_url, table="outbox", rate=rate, seconds=MOST_SECONDS, size=400
        )

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.queues.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(asdict(self._orders)))
        self._process.stdin.close()
        return self

    def goes_on_for(self, seconds: float) -> None:
        time.sleep(seconds)
        assert self._process.poll() is None, "the writer has ended before its time"

    def finish(self) -> list[Accepted]:
        """End it; what was committed."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.stdout is not None
        events = int(orjson.loads(self._process.stdout.read())["events"])
        tickets = [str(ticket_id(number)) for number in range(self._orders.tickets)]
        return [(tickets[n % len(tickets)], 1 + n // len(tickets)) for n in range(events)]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        with self._process:
            pass  # closes its pipes, waits for its end


def steady_load(pipeline: Pipeline, ticketd: Daemon, rate: float) -> BackgroundLoad:
    """So many events a second, 25 a ticket, until it is stopped."""
    return BackgroundLoad(pipeline, ticketd, tickets=ENDLESS, events=25, rate=rate)


def seconds_until(
    condition: Callable[[], object], most: float, what: str | Callable[[], str]
) -> float:
    """How long it took until `condition` held; fails after `most`. Asked a few times a second
    only: what asks the database must not be the load that it looks for."""
    begun = time.monotonic()
    wait_until(condition, most, what, every=ASK_SECONDS)
    return round(time.monotonic() - begun, 1)


def has_caught_up(pipeline: Pipeline, but: int = 0) -> bool:
    """No event waits in the outbox but those that have just come, and those of `but` tickets."""
    statement = (
        f"SELECT count(DISTINCT aggregate_id) FROM outbox WHERE created_at < now() - {FRESH}"
    )
    return pipeline.count(statement) <= but


def judged(
    pipeline: Pipeline,
    load: BackgroundLoad,
    name: str,
    seconds: float,
    *,
    direct: Sequence[Accepted] = (),
    former: Sequence[TopicRecord] = (),
) -> Verdict:
    """The verdict once the load has been stopped and everything delivered: what ticketd accepted,
    which is all that it was asked for, and what was put into the outbox `direct`ly. `former` is
    what the topic held before it was made again."""
    load.stop()
    found = load.finish(30)
    assert (found.refused, found.broken) == ([], 0)
    accepted = [*found.accepted, *direct]
    pipeline.wait_delivered(name, len(accepted), seconds)
    pipeline.wait_empty(30)
    return pipeline.judge(accepted, name, former=former)


class Timed(Protocol):
    """An arrival in the topic or at a receiver."""

    @property
    def committed_at(self) -> float: ...

    @property
    def seconds(self) -> float: ...


def waits(arrivals: Iterable[Timed], begun: float, ended: float) -> list[float]:
    """Seconds from commit to arrival of what was committed between two times of the day, sorted;
    repeats count for themselves."""
    found = [each.seconds for each in arrivals if begun <= each.committed_at <= ended]
    assert found, "nothing was committed meanwhile"
    return sorted(found)
