"""What still works while PostgreSQL, Kafka or a receiver is away, and how it shows: the lines of
docs/degraded.md on what all three daemons stand on."""

import threading
from contextlib import ExitStack
from math import isnan
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from tests.pipeline.pipeline import PATIENT, Pipeline
from tests.pipeline.signs import (
    lags,
    redrive,
    sample,
    told,
    wait_check,
    wait_sample,
    wait_told,
)
from tests.support.outages import Outage, hanging, refusing
from tests.support.processes import http_status, wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(120)]

TICKET = {"title": "Сломался принтер 🖨", "requester": "анна@example.org"}

DELIVERIES = "SELECT count(*) FROM delivery"
OLDEST = "outbox_oldest_pending_seconds"
REJECTED = 'delivery_rejected_total{receiver="webhook:sink"}'


def test_without_postgresql_ticketd_refuses_and_all_three_say_so(
    own_postgres: Postgres, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    is_asked, is_away = threading.Event(), threading.Event()

    def answer_late(envelope: dict[str, Any]) -> int:
        is_asked.set()
        return 200 if is_away.wait(60) else 500

    with (
        WebhookReceiver(answer_late) as receiver,
        Pipeline(
            database_url=own_postgres.url(),
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings=PATIENT | {"TICKETD_REQUEST_TIMEOUT": "120s"},
        ) as pipeline,
    ):
        daemons = ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        created = httpx.post(f"{ticketd.url}/tickets", json=TICKET)
        path = created.headers["Location"]
        assert is_asked.wait(30), "a webhook under way"
        own_postgres.stop()
        is_away.set()

        wait_until(receiver.has_taken(1), 30, "the webhook that was under way")
        wait_check(ticketd, "database", "unreachable")
        wait_sample(ticketd, "ticketd_database_state", 0)
        for daemon in (relayd, notifyd):
            # By then no connection is left of which nobody knows yet that it is lost.
            wait_check(daemon, "database", "away: PoolTimeout")
        for answer in (
            # None has the time that a request may take: they are refused at once.
            httpx.post(f"{ticketd.url}/tickets", json=TICKET, timeout=30),
            httpx.get(f"{ticketd.url}{path}", timeout=30),
            httpx.get(f"{ticketd.url}/tickets", timeout=30),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert httpx.get(f"{ticketd.url}/openapi.yaml").status_code == 200
        for daemon in daemons:
            assert http_status(f"{daemon.admin_url}/readyz") == 503
            assert http_status(f"{daemon.admin_url}/healthz") == 200

        own_postgres.start()
        own_postgres.wait_ready()
        for daemon in daemons:
            wait_until(daemon.is_ready, 30, f"ready {daemon.module}")
        assert httpx.get(f"{ticketd.url}{path}").json()["title"] == TICKET["title"]
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        pipeline.wait_delivered("sink", 2, 60)
        wait_sample(ticketd, "ticketd_database_state", 1)
        names = {event["event"] for event in ticketd.events()}
        assert {"database_not_ready", "database_ready"} <= names
        for daemon in (relayd, notifyd):
            wait_told(daemon, "database_back")
            assert told(daemon, "database_") == ["database_away", "database_back"]


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
            # A group keeps its partitions for so long, and with them what it shows of each.
            settings={"NOTIFYD_SESSION_TIMEOUT": "45s"},
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
        wait_until(
            lambda: lags(notifyd) and all(map(isnan, lags(notifyd))), 30, "lags that are NaN"
        )
        wait_sample(relayd, "outbox_circuit_open", 1)
        assert pipeline.count("SELECT count(*) FROM outbox") == 1
        age = wait_until(lambda: sample(relayd, OLDEST), 30, "age of the oldest row")
        wait_until(lambda: sample(relayd, OLDEST) >= age + 1, 30, "oldest row that grows older")
        assert len(relayd.events("circuit_opened")) == 1
        for daemon in (relayd, notifyd):
            assert http_status(f"{daemon.admin_url}/healthz") == 200

        own_kafka.up()
        for daemon in (relayd, notifyd):
            wait_until(daemon.is_ready, 30, f"ready {daemon.module}")
        pipeline.wait_delivered("sink", 2, 60)
        wait_sample(relayd, "outbox_circuit_open", 0)
        wait_sample(relayd, OLDEST, 0)
        wait_until(lambda: set(lags(notifyd)) == {0.0}, 30, "lags that are known and nothing")


@pytest.mark.parametrize("away", [refusing, hanging])
def test_without_a_receiver_its_deliveries_wait_and_the_others_go_on(
    database_url: str,
    kafka_brokers: str,
    unique_name: str,
    tmp_path: Path,
    away: Outage,
) -> None:
    with ExitStack() as stack:
        outage = stack.enter_context(ExitStack())
        port = outage.enter_context(away())
        fine = stack.enter_context(WebhookReceiver())
        pipeline = stack.enter_context(
            Pipeline(
                database_url=database_url,
                kafka_brokers=kafka_brokers,
                name=unique_name,
                receivers={"fine": fine},
                directory=tmp_path,
                settings={
                    "NOTIFYD_WEBHOOK_URL": f"fine={fine.url},gone=http://127.0.0.1:{port}/hook",
                    # One attempt: an outage that counted as one would bury events.
                    "NOTIFYD_MAX_ATTEMPTS": "1",
                },
            )
        )
        ticketd, _, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        pipeline.wait_delivered("fine", 1, 30)
        opened = 'delivery_circuit_open{receiver="webhook:gone"}'
        wait_sample(notifyd, opened, 1)
        # Its row goes only after the other receiver has answered.
        wait_until(lambda: pipeline.count(DELIVERIES) == 1, 30, "one delivery left")
        assert pipeline.count(DELIVERIES + " WHERE receiver = 'webhook:gone'") == 1
        # Nothing that another copy of notifyd would do better.
        wait_until(notifyd.is_ready, 30, "ready notifyd")
        assert len([e for e in notifyd.events("circuit_opened") if "gone" in e["receiver"]]) == 1

        outage.close()
        with WebhookReceiver(port=port) as back:
            wait_until(back.has_taken(1), 60, "delivery to the one that is back")
            wait_sample(notifyd, opened, 0)
            pipeline.wait_empty(30)
        assert pipeline.count("SELECT count(*) FROM delivery_dead") == 0


def test_receiver_that_refuses_a_ticket_gets_it_once_it_is_well_again(
    database_url: str, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    refused: set[str] = set()
    with (
        WebhookReceiver(lambda event: 422 if event["aggregate_id"] in refused else 200) as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings=PATIENT | {"NOTIFYD_MAX_ATTEMPTS": "1000", "NOTIFYD_RETRY_CAP": "1s"},
        ) as pipeline,
    ):
        # Which one to refuse is known before anybody delivers it.
        (ticketd,) = pipeline.start("ticketd")
        created = httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        refused.add(created.json()["id"])
        _, notifyd = pipeline.start("relayd", "notifyd")
        wait_until(lambda: receiver.refusals >= 3, 60, "attempts")
        # Its other tickets go on.
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        pipeline.wait_delivered("sink", 1, 30)
        wait_sample(notifyd, "delivery_parked_keys", 1)
        wait_until(lambda: sample(notifyd, REJECTED) >= 3, 30, "rejections that are counted")
        assert notifyd.is_ready()
        assert sample(notifyd, 'delivery_circuit_open{receiver="webhook:sink"}') == 0
        first, second = notifyd.events("row_rejected")[:2]
        assert (first["receiver"], first["attempts"], second["attempts"]) == ("webhook:sink", 1, 2)

        # More attempts than are allowed now.
        assert notifyd.terminate(30) == 0
        notifyd = pipeline.daemon("notifyd", {"NOTIFYD_MAX_ATTEMPTS": "2"}).wait_ready(30)
        wait_sample(notifyd, 'delivery_dead_total{receiver="webhook:sink"}', 1)
        [dead] = wait_until(lambda: notifyd.events("row_dead"), 30, "row_dead")
        assert refused.pop() in dead["key"]
        assert notifyd.is_ready()
        wait_sample(notifyd, "delivery_parked_keys", 0)

        assert redrive(pipeline) == "redriven: 1 of 1 dead rows\n"
        pipeline.wait_delivered("sink", 2, 60)
        pipeline.wait_empty(30)
        assert pipeline.count("SELECT count(*) FROM delivery_dead") == 0
