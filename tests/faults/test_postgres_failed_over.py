"""Scenario 6: PostgreSQL restarted, crashed and failed over to a synchronous standby under load.

Requests may be answered with 503 meanwhile. Whatever was answered with 201 or 200 is there
afterwards: on the new primary, in the topic and at the receiver.
"""

import itertools
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy.local.apache import ApacheKafka
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations
from tests.faults.meanwhile import BackgroundLoad, has_caught_up, seconds_until, steady_load
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.pipeline.signs import told, wait_told
from tests.support.load import Load
from tests.support.processes import Daemon, wait_until
from tests.support.standby import Standby, durable_postgres
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

EVENTS_PER_SECOND = 300.0
BETWEEN_SECONDS = 2.0
# A fast shutdown, and an immediate one, after which the write-ahead log is replayed.
RESTARTS = (signal.SIGINT, signal.SIGQUIT)
# A change that was answered with 503 may have been committed all the same.
COMMITTED = "SELECT coalesce(sum(version), 0) FROM tickets"


@pytest.fixture
def standby(servers_directory: Path) -> Iterator[Standby]:
    """The synchronous standby of a migrated primary."""
    directory = Path(tempfile.mkdtemp(dir=servers_directory))
    directory.chmod(0o711)
    primary = durable_postgres(directory)
    migrate(primary.url(), read_migrations(MIGRATIONS), report=lambda line: None)
    standby = Standby(primary, directory)
    standby.make_synchronous()
    yield standby
    standby.stop()
    primary.stop(signal.SIGQUIT)
    shutil.rmtree(directory, ignore_errors=True)


def restart(standby: Standby, how: signal.Signals) -> None:
    standby.primary.stop(how)
    standby.primary.start()
    standby.primary.wait_ready()
    standby.wait_streaming(30)


def is_over(daemon: Daemon) -> bool:
    """The outage, as its log tells."""
    return told(daemon, "database_")[-1] == "database_back"


def seconds_until_well(pipeline: Pipeline, daemons: list[Daemon]) -> float:
    """Until every daemon says that it is ready, and the outbox holds nothing but what just came."""
    return seconds_until(
        lambda: all(daemon.is_ready() for daemon in daemons) and has_caught_up(pipeline),
        60,
        "daemons that are ready and have caught up",
    )


def stopped(load: BackgroundLoad) -> Load:
    load.stop()
    found = load.finish(30)
    assert (set(found.refused) - {503}, found.broken) == (set(), 0)
    return found


def test_postgres_restarted_then_failed_over(
    standby: Standby,
    apache_kafka: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    restarts = scenario.pick(short=2, full=10)
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=standby.url(),
            kafka_brokers=apache_kafka.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
        ) as pipeline,
    ):
        daemons = pipeline.start("ticketd", "relayd", "relayd", "notifyd")
        load = steady_load(pipeline, daemons[0], rate=EVENTS_PER_SECOND)
        wait_until(receiver.has_taken(100), 30, "the first deliveries")

        slowest = 0.0
        for how in itertools.islice(itertools.cycle(RESTARTS), restarts):
            restart(standby, how)
            slowest = max(slowest, seconds_until_well(pipeline, daemons))
            load.goes_on_for(BETWEEN_SECONDS)

        gone_at = time.monotonic()
        standby.primary.kill()
        standby.promote()
        promoted = time.monotonic() - gone_at
        seconds_until_well(pipeline, daemons)
        recovered = time.monotonic() - gone_at
        load.goes_on_for(BETWEEN_SECONDS)

        found = stopped(load)
        pipeline.wait_delivered("sink", pipeline.count(COMMITTED), 120)
        pipeline.wait_empty(30)
        verdict = pipeline.judge(found.accepted, "sink")
        # ticketd may have waited all of it out without refusing anybody.
        for daemon in daemons[1:]:
            wait_told(daemon, "database_away")
            wait_until(partial(is_over, daemon), 30, f"database_back in {daemon.module}")
        scenario.conclude(
            6,
            "PostgreSQL restarted and crashed, then failed over",
            verdict,
            {
                "restarts": restarts,
                "slowest recovery after one, seconds": slowest,
                "promoted after seconds": round(promoted, 2),
                "recovered after seconds": round(recovered, 1),
                "requests answered with 503": len(found.refused),
            },
        )
