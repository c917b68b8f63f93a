"""Scenario 3: relayd is stopped past its lease, and goes on as if nothing had happened."""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local.apache import ApacheKafka
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.checker import Accepted
from tests.support.processes import Daemon, wait_until
from tests.support.topic_log import Ends, read_topic, stale_copies, topic_ends, wait_record

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

# All rows of a round are read at once and go out in one turn of the loop: thousands of them are on
# their way at the moment of the stop, in Python, in librdkafka and in the socket.
SETTINGS = {
    "RELAYD_LEASE": "3s",
    "RELAYD_DELIVERY_TIMEOUT": "400ms",
    "RELAYD_BATCH_SIZE": "16384",
    "RELAYD_MAX_IN_FLIGHT": "16384",
}
TICKETS = 8_000
EVENTS = 2
OWNERS = "SELECT count(DISTINCT owner) FROM outbox_bucket WHERE owner IS NOT NULL"


def test_relayd_stopped_past_its_lease(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    """Each time the other relayd has sent everything before the stopped one wakes up."""
    rounds = scenario.pick(short=4, full=20)
    chance = random.Random(unique_name)
    with Pipeline(
        database_url=database_url,
        kafka_brokers=apache_kafka.bootstrap_servers,
        name=unique_name,
        receivers={},
        directory=tmp_path,
        settings=SETTINGS,
    ) as pipeline:
        copies = pipeline.start("relayd", "relayd")
        # Every partition has taken records, so each can tell where it ends.
        accepted: list[Accepted] = pipeline.fill(200, 1)
        pipeline.wait_empty(30)
        wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "share for each")
        woken: list[tuple[Ends, Ends]] = []
        for _ in range(rounds):
            victim = chance.choice(copies)
            before = _ends(pipeline)
            accepted += pipeline.fill(TICKETS, EVENTS)
            _stop_in_the_midst(pipeline, victim, before, chance.uniform(0.0, 0.1))
            wait_until(lambda: _has_taken_over(pipeline), 60, "take-over")
            since = _ends(pipeline)
            _wake(pipeline, victim)
            woken.append((since, _ends(pipeline)))
        pipeline.wait_empty(30)
        log = read_topic(apache_kafka.bootstrap_servers, pipeline.environment["KAFKA_TOPIC"])
        stale = sum(stale_copies(log, since, until) for since, until in woken)
        late = sum(sum(until.values()) - sum(since.values()) for since, until in woken)
        scenario.conclude(
            3,
            "relayd stopped past its lease, then woken",
            pipeline.judge_topic(accepted),
            {
                "stops": rounds,
                "stops with something refused for its age": _count_aged(copies),
                "records after waking": late,
                "stale copies": stale,
            },
        )
        assert stale == 0


def _stop_in_the_midst(
    pipeline: Pipeline, victim: Daemon, since: Ends, after_seconds: float
) -> None:
    """Some moments after its first rows have arrived, when the others are on their way out."""
    brokers, topic = pipeline.environment["KAFKA_BROKERS"], pipeline.environment["KAFKA_TOPIC"]
    wait_record(brokers, topic, since)
    # No wait for anything: the moment of the fault, another one in each round.
    time.sleep(after_seconds)
    # One that was held up for long may have lost its own, and has none to lose then.
    wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "share for each")
    victim.send(signal.SIGSTOP)


def _has_taken_over(pipeline: Pipeline) -> bool:
    return pipeline.count(OWNERS) == 1 and pipeline.count("SELECT count(*) FROM outbox") == 0


def _wake(pipeline: Pipeline, victim: Daemon) -> None:
    """Until it has seen that its leases are gone, and has got its share again."""
    lost = len(_losses([victim]))
    victim.send(signal.SIGCONT)
    wait_until(lambda: len(_losses([victim])) > lost, 30, "loss of the leases")
    wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "return")


def _losses(copies: Sequence[Daemon]) -> list[object]:
    return [e for copy in copies for e in copy.events("leases_changed") if e["lost"]]


def _count_aged(copies: Sequence[Daemon]) -> int:
    opened = [e for copy in copies for e in copy.events("circuit_opened")]
    return sum(event["error"].startswith("INVALID_TIMESTAMP") for event in opened)


def _ends(pipeline: Pipeline) -> Ends:
    return topic_ends(pipeline.environment["KAFKA_BROKERS"], pipeline.environment["KAFKA_TOPIC"])
