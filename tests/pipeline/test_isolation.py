"""What cannot progress holds back only itself: a poisoned event, a record that is no event, a
receiver that always fails."""

from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from tests.pipeline.pipeline import PATIENT, Pipeline
from tests.pipeline.signs import redrive, wait_sample
from tests.support.processes import wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(240)]


def test_poison_and_a_failing_receiver_hold_back_nobody_else(
    database_url: str, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    with (
        WebhookReceiver() as fine,
        WebhookReceiver(status=lambda envelope: 500) as failing,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"fine": fine, "failing": failing},
            directory=tmp_path,
            settings={"RELAYD_MAX_ATTEMPTS": "3", "NOTIFYD_MAX_ATTEMPTS": "3"} | PATIENT,
        ) as pipeline,
    ):
        poisoned = uuid4()
        pipeline.insert(poisoned, range(1, 2))
        pipeline.insert(poisoned, range(2, 3), payload='{"x": "' + "x" * 2_000_000 + '"}')
        pipeline.insert(poisoned, range(3, 4))
        accepted = pipeline.fill(tickets=60, events=10)
        _, notifyd = pipeline.start("relayd", "notifyd")
        producer = Producer({"bootstrap.servers": kafka_brokers})
        producer.produce(f"{unique_name}.events", b"{no event", b"key")
        assert producer.flush(10) == 0

        pipeline.wait_delivered("fine", 602, 60)
        wait_until(
            lambda: pipeline.count("SELECT count(*) FROM delivery_dead") == 602,
            60,
            f"end of all attempts at the failing receiver; {pipeline.state()}",
        )
        pipeline.wait_empty()
        verdict = pipeline.judge([*accepted, (str(poisoned), 1), (str(poisoned), 3)], "fine")
        print("beside poison and a failing receiver:", verdict)
        assert (verdict.delivered, verdict.lost, verdict.out_of_order) == (602, 0, 0)
        assert (verdict.repeated, verdict.repeated_in_database) == (0, 0)
        # The poisoned event alone died at relayd, and each of 602 at the failing receiver.
        assert pipeline.count("SELECT count(*) FROM outbox_dead") == 1
        assert failing.deliveries == []
        assert failing.refusals == 602 * 3
        assert notifyd.is_ready()
        assert notifyd.events("circuit_opened") == []
        wait_sample(notifyd, 'delivery_rejected_total{receiver="webhook:failing"}', 602 * 3)
        wait_sample(notifyd, 'delivery_dead_total{receiver="webhook:failing"}', 602)
        assert len(notifyd.events("row_rejected")) == 602 * 3
        wait_until(lambda: len(notifyd.events("row_dead")) == 602, 30, "row_dead of each")
        assert {event["receiver"] for event in notifyd.events("row_dead")} == {"webhook:failing"}

        # It is well again.
        failing.status = lambda envelope: 200
        assert redrive(pipeline) == "redriven: 602 of 602 dead rows\n"
        pipeline.wait_delivered("failing", 602, 60)
        pipeline.wait_empty(30)
        assert pipeline.count("SELECT count(*) FROM delivery_dead") == 0
