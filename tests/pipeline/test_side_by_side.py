"""Two copies of relayd and of notifyd side by side: first in peace, then killed and replaced."""

import threading
from pathlib import Path

import pytest

from tests.pipeline.pipeline import PATIENT, QUICK, Pipeline
from tests.support.checker import Accepted
from tests.support.processes import Daemon, wait_until
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(180)]

TICKETS = 100
EVENTS = 25


def _load_in_background(
    pipeline: Pipeline, ticketd: Daemon, accepted: list[Accepted]
) -> threading.Thread:
    def load() -> None:
        found = pipeline.load(ticketd, tickets=TICKETS, events=EVENTS)
        assert (found.refused, found.broken) == ([], 0)
        accepted.extend(found.accepted)

    thread = threading.Thread(target=load)
    thread.start()
    return thread


def test_every_event_is_delivered_once_in_order_and_survives_kills(
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
            settings=PATIENT,
        ) as pipeline,
    ):
        ticketd, *copies = pipeline.start("ticketd", "relayd", "relayd", "notifyd", "notifyd")
        relayd, _, notifyd, _ = copies
        peaceful = pipeline.load(ticketd, tickets=TICKETS, events=EVENTS)
        assert (peaceful.refused, peaceful.broken) == ([], 0)
        pipeline.wait_delivered("sink", TICKETS * EVENTS, 60)
        pipeline.wait_empty()
        verdict = pipeline.judge(peaceful.accepted, "sink")
        print("in peace:", verdict)
        assert verdict.accepted == verdict.delivered == TICKETS * EVENTS
        assert (verdict.lost, verdict.repeated, verdict.out_of_order, verdict.dead) == (0, 0, 0, 0)

        for daemon in copies:
            assert daemon.terminate() == 0
            daemon.environment |= QUICK
            daemon.start()
        for daemon in copies:
            daemon.wait_ready(30)
        accepted = list(peaceful.accepted)
        load = _load_in_background(pipeline, ticketd, accepted)
        for victim, milestone in ((relayd, 2800), (notifyd, 3300), (relayd, 3800), (notifyd, 4300)):
            wait_until(
                receiver.has_taken(milestone),
                60,
                f"{milestone} deliveries; {pipeline.state()}",
            )
            victim.kill()
            victim.start()
        load.join()
        pipeline.wait_delivered("sink", 2 * TICKETS * EVENTS, 60)
        pipeline.wait_empty(20)
        verdict = pipeline.judge(accepted, "sink")
        print("with four kills:", verdict)
        assert verdict.accepted == verdict.delivered == 2 * TICKETS * EVENTS
        assert (verdict.lost, verdict.out_of_order, verdict.dead) == (0, 0, 0)
        assert verdict.repeated_in_database == 0
        assert pipeline.count("SELECT count(*) FROM inbox") == 2 * TICKETS * EVENTS
