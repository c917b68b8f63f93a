"""What still works while PostgreSQL, Kafka or a receiver is away, and how it shows: the lines of
docs/degraded.md on what all three daemons stand on."""

from pathlib import Path

import httpx
import pytest

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from tests.pipeline.pipeline import Pipeline
from tests.support.processes import Daemon, http_status, wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(120)]

TICKET = {"title": "Сломался принтер 🖨", "requester": "анна@example.org"}

DELIVERIES = "SELECT count(*) FROM delivery"


def wait_check(daemon: Daemon, check: str, begins: str) -> None:
    wait_until(
        lambda: daemon.checks().get(check, "").startswith(begins),
        30,
        lambda: f"{check} {begins!r} in {daemon.module}, which says {daemon.checks()}",
    )


def test_without_postgresql_ticketd_refuses_and_all_three_say_so(
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
        daemons = ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        created = httpx.post(f"{ticketd.url}/tickets", json=TICKET)
        path = created.headers["Location"]
        own_postgres.stop()

        wait_check(ticketd, "database", "unreachable")
        wait_check(relayd, "database", "away: ")
        wait_check(notifyd, "database", "away: ")
        for answer in (
            httpx.post(f"{ticketd.url}/tickets", json=TICKET),
            httpx.get(f"{ticketd.url}{path}"),
            httpx.get(f"{ticketd.url}/tickets"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert httpx.get(f"{ticketd.url}/openapi.yaml").status_code == 200
        for daemon in daemons:
            assert http_status(f"{daemon.admin_url}/readyz") == 503
            assert http_status(f"{daemon.admin_url}/healthz") == 200
        assert "ticketd_database_state 0.0" in ticketd.metrics()

        own_postgres.start()
        own_postgres.wait_ready()
        for daemon in daemons:
            wait_until(daemon.is_ready, 30, f"ready {daemon.module}")
        assert httpx.get(f"{ticketd.url}{path}").json()["title"] == TICKET["title"]
        pipeline.wait_delivered("sink", 1, 30)
        assert "ticketd_database_state 1.0" in ticketd.metrics()


def test_without_kafka_tickets_are_taken_and_deliveries_go_on(
    database_url: str, own_kafka: Kafka, unique_name: str, tmp_path: Path
) -> None:
    with (
        WebhookReceiver(status=lambda envelope: 503 if waits.get("wait") else 200) as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=own_kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
        ) as pipeline,
    ):
        waits = {"wait": True}
        ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        wait_until(lambda: receiver.refusals > 0, 30, "an event taken in")
        own_kafka.down()
        waits["wait"] = False

        created = httpx.post(f"{ticketd.url}/tickets", json=TICKET)
        assert created.status_code == 201
        wait_check(relayd, "kafka", "away: ")
        wait_check(notifyd, "kafka", "away: ")
        # What had been taken in is delivered all the same.
        pipeline.wait_delivered("sink", 1, 30)
        assert ticketd.is_ready()
        for daemon in (relayd, notifyd):
            wait_check(daemon, "database", "ok")
        assert "outbox_circuit_open 1.0" in relayd.metrics()
        assert pipeline.count("SELECT count(*) FROM outbox") == 1
        for daemon in (relayd, notifyd):
            assert http_status(f"{daemon.admin_url}/healthz") == 200

        own_kafka.up()
        for daemon in (relayd, notifyd):
            wait_until(daemon.is_ready, 30, f"ready {daemon.module}")
        pipeline.wait_delivered("sink", 2, 30)
        assert "outbox_circuit_open 0.0" in relayd.metrics()


def test_without_a_receiver_its_deliveries_wait_and_the_others_go_on(
    database_url: str, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    with WebhookReceiver() as gone:
        pass
    with (
        WebhookReceiver() as fine,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"fine": fine, "gone": gone},
            directory=tmp_path,
            # One attempt: an outage that counted as one would bury events.
            settings={"NOTIFYD_MAX_ATTEMPTS": "1"},
        ) as pipeline,
    ):
        ticketd, _, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        pipeline.wait_delivered("fine", 1, 30)
        opened = 'delivery_circuit_open{receiver="webhook:gone"}'
        wait_until(lambda: f"{opened} 1.0" in notifyd.metrics(), 30, "open circuit")
        # Its row goes only after the other receiver has answered.
        wait_until(lambda: pipeline.count(DELIVERIES) == 1, 10, "one delivery left")
        assert pipeline.count(DELIVERIES + " WHERE receiver = 'webhook:gone'") == 1
        # Nothing that another copy of notifyd would do better.
        wait_until(notifyd.is_ready, 10, "ready notifyd")
        assert len([e for e in notifyd.events("circuit_opened") if "gone" in e["receiver"]]) == 1

        with WebhookReceiver(port=gone.port) as back:
            wait_until(lambda: len(back.deliveries) == 1, 30, "delivery to the one that is back")
            wait_until(lambda: f"{opened} 0.0" in notifyd.metrics(), 30, "closed circuit")
            pipeline.wait_empty()
        assert pipeline.count("SELECT count(*) FROM delivery_dead") == 0
