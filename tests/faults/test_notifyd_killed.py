"""Scenario 2: notifyd after notifyd is ended by kill -9, and the group never comes to rest."""

import itertools
from pathlib import Path

import pytest

from tests.conftest import CreateCluster
from tests.faults.meanwhile import BackgroundLoad
from tests.faults.restless import RestlessMember
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

COPIES = 3
KILL_EVERY_SECONDS = 2.0
# A member that was killed holds the group up until its session is over: not the usual six seconds,
# so that the group is balanced as often as it can be.
SESSION_MS = 1_000
QUICK_GROUP = {"group.min.session.timeout.ms": "500"}


def test_notifyd_killed_every_two_seconds(
    database_url: str,
    create_cluster: CreateCluster,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    tickets = scenario.pick(short=300, full=2_000)
    events = 25
    kafka = create_cluster(settings=QUICK_GROUP)
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings={"NOTIFYD_SESSION_TIMEOUT": f"{SESSION_MS}ms"},
        ) as pipeline,
    ):
        ticketd, _, *copies = pipeline.start("ticketd", "relayd", *["notifyd"] * COPIES)
        victims = itertools.cycle(copies)
        with RestlessMember(pipeline.environment, SESSION_MS) as restless:
            load = BackgroundLoad(pipeline, ticketd, tickets=tickets, events=events)
            kills = 0
            while not load.ends_within(KILL_EVERY_SECONDS):
                victim = next(victims)
                victim.kill()
                victim.start()
                kills += 1
            found = load.finish(0)
        assert (found.refused, found.broken) == ([], 0)
        pipeline.wait_delivered("sink", tickets * events, 180)
        pipeline.wait_empty(30)
        verdict = pipeline.judge(found.accepted, "sink")
        assert verdict.accepted == tickets * events
        assert kills >= COPIES
        assert restless.generation >= kills
        assert pipeline.count("SELECT count(*) FROM inbox") == tickets * events
        kafka.kill()
        scenario.conclude(
            2,
            "notifyd killed every 2 s, three running",
            verdict,
            {
                "kills": kills,
                "rebalances": restless.generation,
                "joins of one more member": restless.joins,
                "tickets": tickets,
            },
        )
