"""PostgreSQL or Kafka does not answer: every connection stays open and nothing comes of it. The
lines of docs/degraded.md on servers that hang."""

import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.local.kafka import Kafka
from tests.pipeline.pipeline import Pipeline
from tests.pipeline.signs import lags, sample, told, wait_check, wait_sample, wait_told
from tests.support.processes import free_port, http_status, wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(300)]

TICKET = {"title": "Принтер молчит 🖨", "requester": "анна@example.org"}
OLDEST = "outbox_oldest_pending_seconds"


def test_silent_postgresql_is_given_up_and_all_three_say_so(
    database_url: str, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    address = urlsplit(database_url)
    assert address.port is not None
    with (
        WebhookReceiver() as receiver,
        TcpProxy(free_port(), address.port) as network,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings={"DATABASE_URL": database_url.replace(f":{address.port}", f":{network.port}")},
        ) as pipeline,
    ):
        daemons = ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        created = httpx.post(f"{ticketd.url}/tickets", json=TICKET, timeout=60)
        path = created.raise_for_status().headers["Location"]
        pipeline.wait_delivered("sink", 1, 60)
        network.hold()

        answer = httpx.get(f"{ticketd.url}{path}", timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        wait_check(ticketd, "database", "unreachable")
        wait_sample(ticketd, "ticketd_database_state", 0)
        for daemon in (relayd, notifyd):
            # First that the leases are over, then why.
            wait_check(daemon, "database", "away: ")
            wait_told(daemon, "database_away")
            assert "no answer" in daemon.events("database_away")[0]["error"]
        for daemon in daemons:
            assert http_status(f"{daemon.admin_url}/readyz") == 503
            assert http_status(f"{daemon.admin_url}/healthz") == 200
        answer = httpx.post(f"{ticketd.url}/tickets", json=TICKET, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")

        network.release()
        for daemon in daemons:
            wait_until(daemon.is_ready, 60, f"ready {daemon.module}")
        assert httpx.get(f"{ticketd.url}{path}", timeout=60).json()["title"] == TICKET["title"]
        httpx.post(f"{ticketd.url}/tickets", json=TICKET, timeout=60).raise_for_status()
        pipeline.wait_delivered("sink", 2, 60)
        wait_sample(ticketd, "ticketd_database_state", 1)
        assert {"database_not_ready", "database_ready"} <= set(told(ticketd, "database_"))
        for daemon in (relayd, notifyd):
            wait_told(daemon, "database_back")


def test_silent_kafka_is_given_up_and_both_say_so(
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
        httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
        pipeline.wait_delivered("sink", 1, 60)
        pipeline.wait_empty(30)
        wait_until(lambda: set(lags(notifyd)) == {0.0}, 60, "lags of nothing")
        assert own_kafka.child is not None
        own_kafka.child.send(signal.SIGSTOP)
        try:
            httpx.post(f"{ticketd.url}/tickets", json=TICKET).raise_for_status()
            wait_until(lambda: 0.0 not in lags(notifyd), 60, "lags that nobody knows")
            wait_check(relayd, "kafka", "away: ")
            wait_sample(relayd, "outbox_circuit_open", 1)
            age = wait_until(lambda: sample(relayd, OLDEST), 60, "age of the oldest row")
            wait_until(lambda: sample(relayd, OLDEST) >= age + 1, 60, "row that grows older")
            # Within a third of the time after which librdkafka would tell of it.
            wait_until(lambda: not notifyd.is_ready(), 30, "notifyd that is not ready")
            wait_check(notifyd, "kafka", "away: ")
            assert notifyd.events("kafka_away")
            assert ticketd.is_ready()
            assert len(relayd.events("circuit_opened")) == 1
            assert pipeline.count("SELECT count(*) FROM outbox") == 1
        finally:
            own_kafka.child.send(signal.SIGCONT)

        for daemon in (relayd, notifyd):
            wait_until(daemon.is_ready, 60, f"ready {daemon.module}")
        pipeline.wait_delivered("sink", 2, 60)
        pipeline.wait_empty(30)
        wait_sample(relayd, "outbox_circuit_open", 0)
        wait_until(lambda: set(lags(notifyd)) == {0.0}, 60, "lags that are known again")
        assert pipeline.count("SELECT count(*) FROM outbox_dead") == 0
