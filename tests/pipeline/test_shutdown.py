"""SIGTERM under load: a daemon leaves in time with exit code 0, and its successor goes on where it
stopped, without a repeat."""

from pathlib import Path

import pytest

from tests.pipeline.pipeline import PATIENT, Pipeline
from tests.support.processes import wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(120)]


def test_terminated_relayd_and_notifyd_leave_nothing_undone_and_repeat_nothing(
    database_url: str, kafka_brokers: str, unique_name: str, tmp_path: Path
) -> None:
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=kafka_brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings={"SHUTDOWN_TIMEOUT": "15s"} | PATIENT,
        ) as pipeline,
    ):
        accepted = pipeline.fill(tickets=200, events=10)
        relayd, notifyd = pipeline.start("relayd", "notifyd")
        for daemon, milestone in ((notifyd, 200), (relayd, 500), (notifyd, 900)):
            wait_until(
                receiver.has_taken(milestone),
                30,
                f"{milestone} deliveries; {pipeline.state()}",
            )
            assert daemon.terminate(16.0) == 0
            daemon.start().wait_ready()
        pipeline.wait_delivered("sink", 2000, 60)
        pipeline.wait_empty()
        verdict = pipeline.judge(accepted, "sink")
        print("terminated three times:", verdict)
        assert verdict.delivered == 2000
        assert (verdict.lost, verdict.repeated, verdict.out_of_order, verdict.dead) == (0, 0, 0, 0)
        assert verdict.repeated_in_database == 0
