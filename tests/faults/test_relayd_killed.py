"""Scenario 1: relayd after relayd is ended by kill -9 in the midst of its work."""

import itertools
from pathlib import Path

import pytest

from deploy.local.apache import ApacheKafka
from tests.faults.meanwhile import BackgroundLoad
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

COPIES = 3
KILL_EVERY_SECONDS = 2.0


def test_relayd_killed_every_two_seconds(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    tickets = scenario.pick(short=400, full=2_000)
    events = 25
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=apache_kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
        ) as pipeline,
    ):
        ticketd, _, *copies = pipeline.start("ticketd", "notifyd", *["relayd"] * COPIES)
        victims = itertools.cycle(copies)
        load = BackgroundLoad(pipeline, ticketd, tickets=tickets, events=events)
        kills = 0
        while not load.ends_within(KILL_EVERY_SECONDS):
            victim = next(victims)
            victim.kill()
            victim.start()
            kills += 1
        found = load.finish(0)
        assert (found.refused, found.broken) == ([], 0)
        assert kills >= COPIES
        pipeline.wait_delivered("sink", tickets * events, 180)
        pipeline.wait_empty(30)
        verdict = pipeline.judge(found.accepted, "sink")
        assert verdict.accepted == tickets * events
        scenario.conclude(
            1,
            "relayd killed every 2 s, three running",
            verdict,
            {"kills": kills, "tickets": tickets},
        )
