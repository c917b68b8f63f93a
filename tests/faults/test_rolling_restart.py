"""Scenario 10: every daemon is restarted, one after another, while clients go on."""

import time
from pathlib import Path

import pytest

from deploy.local.apache import ApacheKafka
from tests.faults.scenario import Scenario
from tests.faults.service import ServiceLoad
from tests.pipeline.pipeline import Pipeline
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

STOP_SECONDS = 15.0


def test_rolling_restart_of_all_daemons(
    database_url: str,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    rounds = scenario.pick(short=1, full=8)
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
        copies = pipeline.start(*["ticketd", "relayd", "notifyd"] * 2)
        load = ServiceLoad([copy for copy in copies if copy.module == "ticketd"]).begin()
        began = time.monotonic()
        for copy in copies * rounds:
            before = len(load.found.accepted)
            assert copy.terminate(STOP_SECONDS) == 0
            copy.start().wait_ready(30)
            assert len(load.found.accepted) > before, "nothing went on meanwhile"
        seconds = time.monotonic() - began
        found = load.finish()
        pipeline.wait_delivered("sink", len(found.accepted), 180)
        pipeline.wait_empty(30)
        scenario.conclude(
            10,
            "rolling restart of all daemons, two of each",
            pipeline.judge(found.accepted, "sink"),
            {
                "restarts": len(copies) * rounds,
                "seconds": round(seconds, 1),
                "requests": len(found.accepted),
                "failed requests": len(found.refused) + found.broken,
                "connections refused and tried elsewhere": load.elsewhere,
                "slowest request, s": round(load.slowest_seconds, 2),
            },
        )
        assert (found.refused, found.broken) == ([], 0)
