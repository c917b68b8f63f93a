"""Scenario 7: a transaction that has read stays open, so vacuum may remove nothing that has been
deleted since. Rounds with it and without it take turns; what they have in common is compared.

Rates are noise on a busy machine. What PostgreSQL read for an event is not: a queue that visits its
dead entries again reads many times as much, so that is judged at any length, and the rate at full
length only.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest

from bench.percentiles import percentile
from deploy.local.apache import ApacheKafka
from tests.faults.meanwhile import FixedRate, has_caught_up, waits
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.checker import Accepted, judge
from tests.support.metrics import sample
from tests.support.processes import Daemon, wait_until
from tests.support.topic_log import TopicRecord, read_topic

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

# At full length, against the rate without the snapshot.
LEAST_RATE = 0.99
# Of what is read for an event, against those without the snapshot: twice as much where events come
# as fast as they can. At a low rate most reads find nothing, and how many there are is chance; a
# read that passed over all dead entries would still stand out.
MOST_READS = 2.0
MOST_READS_WHEN_IDLE = 5.0
IS_HELD = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_xmin IS NOT NULL AND state = 'idle in transaction'
"""
# Entries of the primary keys that statements went through, and pages of tables and keys, with what
# is dead in them.
READS = """
SELECT sum(idx_tup_read + heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)
FROM pg_statio_user_tables JOIN pg_stat_user_tables USING (relid)
     JOIN pg_stat_user_indexes USING (relid)
WHERE pg_statio_user_tables.relname IN ('outbox', 'delivery')
"""


@contextmanager
def old_snapshot(pipeline: Pipeline) -> Iterator[None]:
    """Somebody's report, which began before and does not end."""
    with psycopg.connect(pipeline.database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM tickets")
        assert pipeline.count(IS_HELD) == 1
        yield
        connection.rollback()


def vacuum(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.database_url, autocommit=True) as connection:
        connection.execute("VACUUM outbox, delivery")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    events: int
    seconds: float
    reads: float
    began_at: float = 0.0
    ended_at: float = 0.0

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def reads_each(self) -> float:
        return self.reads / self.events


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rounds, one after the other."""

    without: Round
    held: Round


def take_turns(pipeline: Pipeline, pairs: int, work: Callable[[], Round]) -> list[Pair]:
    """A round without and one with the snapshot, as often as asked for. Each begins clean."""
    found = []
    for _ in range(pairs):
        vacuum(pipeline)
        without = work()
        vacuum(pipeline)
        with old_snapshot(pipeline):
            held = work()
        found.append(Pair(without, held))
    return found


def figures_of(pairs: list[Pair]) -> dict[str, int | float | str]:
    def median(value: Callable[[Round], float]) -> tuple[float, float]:
        return (
            statistics.median(value(pair.without) for pair in pairs),
            statistics.median(value(pair.held) for pair in pairs),
        )

    rates, reads = median(lambda found: found.rate), median(lambda found: found.reads_each)
    ratios = [pair.held.rate / pair.without.rate for pair in pairs]
    return {
        "pairs of rounds": len(pairs),
        "events a round": pairs[0].held.events,
        "events/s without": round(rates[0]),
        "events/s with": round(rates[1]),
        "rate with, percent of without": round(100 * statistics.median(ratios), 1),
        "entries and pages read for an event without": round(reads[0], 2),
        "entries and pages read for an event with": round(reads[1], 2),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Drains:
    """A round: so many times over, `events` events for each of `tickets` tickets."""

    times: int
    tickets: int
    events: int


SHORT = Drains(times=3, tickets=400, events=10)
FULL = Drains(times=3, tickets=2_000, events=20)


def published(relayd: Daemon) -> float:
    """How many events Kafka has acknowledged to this relayd."""
    return sample(relayd.metrics(), "outbox_published_total")


def has_published(relayd: Daemon, events: int) -> bool:
    return published(relayd) >= events


def drain_round(
    pipeline: Pipeline, drains: Drains, accepted: list[Accepted]
) -> Callable[[], Round]:
    """One relayd drains what is committed before its eyes, several times over; the dead rows of
    one drain lie before the next one. Statistics are whole once it has ended."""

    def work() -> Round:
        relayd = pipeline.daemon("relayd").wait_ready()
        before = pipeline.count(READS)
        seconds = 0.0
        events = 0
        for _ in range(drains.times):
            rows = pipeline.fill(drains.tickets, drains.events)
            begun = time.monotonic()
            events += len(rows)
            accepted.extend(rows)
            wait_until(partial(has_published, relayd, events), 120, pipeline.state)
            seconds += time.monotonic() - begun
        # Not asked before: counting goes through the table as well.
        assert relayd.terminate() == 0
        reads = pipeline.count(READS)
        assert pipeline.count("SELECT count(*) FROM outbox") == 0
        return Round(events=events, seconds=seconds, reads=reads - before)

    return work


def check(pairs: list[Pair], scenario: Scenario, most_reads: float = MOST_READS) -> None:
    for pair in pairs:
        assert pair.held.reads_each <= most_reads * pair.without.reads_each + 1, pair
    ratio = statistics.median(pair.held.rate / pair.without.rate for pair in pairs)
    assert ratio >= scenario.pick(short=0.0, full=LEAST_RATE), pairs


def test_old_snapshot_held_in_a_drain(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    accepted: list[Accepted] = []
    with Pipeline(
        database_url=database_url,
        kafka_brokers=apache_kafka.bootstrap_servers,
        name=unique_name,
        receivers={},
        directory=tmp_path,
    ) as pipeline:
        work = drain_round(pipeline, scenario.pick(short=SHORT, full=FULL), accepted)
        work()  # the first one finds everything cold
        pairs = take_turns(pipeline, scenario.pick(short=2, full=6), work)
        topic = read_topic(apache_kafka.bootstrap_servers, f"{unique_name}.events", 120)
        verdict = judge(accepted, database_url, topic=topic)
    scenario.conclude(7, "old snapshot held in a full-speed drain", verdict, figures_of(pairs))
    check(pairs, scenario)


def test_old_snapshot_held_in_a_steady_run(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    rate = scenario.pick(short=150.0, full=800.0)
    seconds = scenario.pick(short=4.0, full=40.0)
    with Pipeline(
        database_url=database_url,
        kafka_brokers=apache_kafka.bootstrap_servers,
        name=unique_name,
        receivers={},
        directory=tmp_path,
    ) as pipeline:
        [relayd] = pipeline.start("relayd")
        with FixedRate(pipeline, rate) as load:
            wait_until(lambda: published(relayd) >= 100, 30, "the first events in the topic")
            work = steady_round(pipeline, relayd, load, seconds)
            pairs = take_turns(pipeline, scenario.pick(short=2, full=3), work)
            accepted = load.finish()
        wait_until(lambda: pipeline.count("SELECT count(*) FROM outbox") == 0, 60, pipeline.state)
        topic = read_topic(apache_kafka.bootstrap_servers, f"{unique_name}.events", 120)
        verdict = judge(accepted, database_url, topic=topic)
    scenario.conclude(
        7,
        f"old snapshot held at {rate:g} events/s into the topic",
        verdict,
        {
            **figures_of(pairs),
            "p99 into the topic without, ms": p99_ms(topic, [pair.without for pair in pairs]),
            "p99 into the topic with, ms": p99_ms(topic, [pair.held for pair in pairs]),
        },
    )
    check(pairs, scenario, scenario.pick(short=MOST_READS_WHEN_IDLE, full=MOST_READS))
    arrived = statistics.median(pair.held.rate for pair in pairs)
    assert arrived >= scenario.pick(short=0.0, full=LEAST_RATE) * rate


def p99_ms(topic: Sequence[TopicRecord], rounds: Sequence[Round]) -> int:
    """The median of the rounds."""
    found = [percentile(waits(topic, each.began_at, each.ended_at), 0.99) for each in rounds]
    return round(1000 * statistics.median(found))


def steady_round(
    pipeline: Pipeline, relayd: Daemon, load: FixedRate, seconds: float
) -> Callable[[], Round]:
    """A while of the load as it comes. It is as fast as events come into the topic meanwhile."""

    def work() -> Round:
        reads, before = pipeline.count(READS), published(relayd)
        begun, began_at = time.monotonic(), time.time()
        load.goes_on_for(seconds)
        events, took, ended_at = (
            round(published(relayd) - before),
            time.monotonic() - begun,
            time.time(),
        )
        reads = pipeline.count(READS) - reads
        wait_until(lambda: has_caught_up(pipeline), 30, "end of the backlog")
        return Round(events=events, seconds=took, reads=reads, began_at=began_at, ended_at=ended_at)

    return work
