"""Scenario 3, the other half: notifyd is stopped past its lease, and goes on."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.local.apache import ApacheKafka
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.checker import Accepted, Arrival
from tests.support.processes import Daemon, wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

SETTINGS = {"NOTIFYD_LEASE": "3s", "NOTIFYD_WEBHOOK_TIMEOUT": "1s"}
TICKETS = 400
EVENTS = 5
OWNERS = "SELECT count(DISTINCT owner) FROM delivery_bucket WHERE owner IS NOT NULL"


def test_notifyd_stopped_past_its_lease(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    rounds = scenario.pick(short=3, full=20)
    chance = random.Random(unique_name)
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=apache_kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings=SETTINGS,
        ) as pipeline,
    ):
        _, *copies = pipeline.start("relayd", "notifyd", "notifyd")
        # Ready is who may send; the one that was first still holds all until its next renewal.
        wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "share for each")
        accepted: list[Accepted] = []
        stale = late = 0
        for _ in range(rounds):
            victim = chance.choice(copies)
            before = len(receiver.deliveries)
            part = pipeline.fill(TICKETS, EVENTS)
            accepted += part
            wait_until(receiver.has_taken(before + chance.randrange(len(part))), 60, "deliveries")
            # One that was held up for long may have lost its own, and has none to lose then.
            wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "share for each")
            victim.send(signal.SIGSTOP)
            pipeline.wait_delivered("sink", len(accepted), 60)
            pipeline.wait_empty(60)
            wait_until(lambda: pipeline.count(OWNERS) == 1, 30, "take-over")
            since = len(receiver.deliveries)
            _wake(pipeline, victim)
            late += len(receiver.deliveries) - since
            stale += _stale(receiver.deliveries, since)
        scenario.conclude(
            3,
            "notifyd stopped past its lease, then woken",
            pipeline.judge(accepted, "sink"),
            {"stops": rounds, "deliveries after waking": late, "stale copies": stale},
        )


def _wake(pipeline: Pipeline, victim: Daemon) -> None:
    lost = _losses(victim)
    victim.send(signal.SIGCONT)
    wait_until(lambda: _losses(victim) > lost, 30, "loss of the leases")
    wait_until(lambda: pipeline.count(OWNERS) == 2, 30, "return")
    wait_until(victim.is_ready, 30, "readiness")


def _losses(victim: Daemon) -> int:
    return sum(bool(event["lost"]) for event in victim.events("leases_changed"))


def _stale(deliveries: Sequence[Arrival], since: int) -> int:
    """Of those that came since, how many came after a newer one of their ticket."""
    newest: dict[str, int] = {}
    stale = 0
    for place, each in enumerate(deliveries):
        known = newest.get(each.ticket, 0)
        stale += place >= since and each.sequence < known
        newest[each.ticket] = max(known, each.sequence)
    return stale
