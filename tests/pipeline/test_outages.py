"""Kafka and PostgreSQL go away in the middle of the work and come back: nothing is lost."""

import time
from pathlib import Path

import pytest

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from tests.pipeline.pipeline import Pipeline
from tests.support.processes import wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(180)]

KAFKA_AWAY_SECONDS = 20.0


def test_kafka_away_for_twenty_seconds_costs_no_event_and_no_attempt(
    database_url: str, own_kafka: Kafka, unique_name: str, tmp_path: Path
) -> None:
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=own_kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            # One attempt: an outage that counted as one would bury events.
            settings={"RELAYD_MAX_ATTEMPTS": "1"},
        ) as pipeline,
    ):
        ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        before = pipeline.load(ticketd, tickets=20, events=5)
        pipeline.wait_delivered("sink", 100, 30)

        own_kafka.down()
        gone_at = time.monotonic()
        during = pipeline.load(ticketd, tickets=50, events=10)
        assert (during.refused, during.broken) == ([], 0)
        wait_until(lambda: "outbox_circuit_open 1.0" in relayd.metrics(), 15, "an open circuit")
        assert not relayd.is_ready()
        wait_until(lambda: not notifyd.is_ready(), 15, "notifyd that says it is not ready")
        wait_until(
            lambda: time.monotonic() - gone_at >= KAFKA_AWAY_SECONDS, 30, "end of the outage"
        )
        assert pipeline.count("SELECT count(*) FROM outbox") >= 400
        own_kafka.up()

        pipeline.wait_delivered("sink", 600, 60)
        pipeline.wait_empty(20)
        verdict = pipeline.judge([*before.accepted, *during.accepted], "sink")
        print("Kafka away for 20 s:", verdict)
        assert verdict.accepted == verdict.delivered == 600
        assert (verdict.lost, verdict.out_of_order, verdict.dead) == (0, 0, 0)
        assert verdict.repeated_in_database == 0
        assert pipeline.count("SELECT count(*) FROM outbox_parked") == 0
        for daemon in (relayd, notifyd):
            wait_until(daemon.is_ready, 15, f"{daemon.module} that is ready again")


def test_postgres_restarted_under_load_loses_no_accepted_ticket_and_no_event(
    own_postgres: Postgres, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=own_postgres.url(),
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
        ) as pipeline,
    ):
        ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        before = pipeline.load(ticketd, tickets=50, events=10)
        wait_until(lambda: len(receiver.deliveries) >= 50, 30, "the first deliveries")

        own_postgres.stop()
        refused = pipeline.load(ticketd, tickets=3, events=1)
        assert set(refused.refused) == {503}
        wait_until(lambda: not ticketd.is_ready(), 15, "ticketd that says it is not ready")
        own_postgres.start()
        own_postgres.wait_ready()
        for daemon in (ticketd, relayd, notifyd):
            wait_until(daemon.is_ready, 30, f"{daemon.module} that is ready again")
        after = pipeline.load(ticketd, tickets=50, events=10)
        assert (after.refused, after.broken) == ([], 0)

        pipeline.wait_delivered("sink", 1000, 60)
        pipeline.wait_empty(20)
        verdict = pipeline.judge([*before.accepted, *after.accepted], "sink")
        print("PostgreSQL restarted:", verdict)
        assert verdict.accepted == verdict.delivered == 1000
        assert (verdict.lost, verdict.out_of_order, verdict.dead) == (0, 0, 0)
        assert verdict.repeated_in_database == 0
        assert pipeline.count("SELECT count(*) FROM tickets") == 100
