"""`Publisher.send` settles every row and never raises: not for what is wrong with the row, and not
when no producer can be made."""

import asyncio
import time
from uuid import uuid4

import pytest

from servicedesk.queue.row import Acknowledged, Outcome, Rejected, Unreachable
from servicedesk.queue.target import BuryError
from tests.conftest import StartDaemon
from tests.relayd.faulty_cluster import INIT_PRODUCER_ID, FaultyCluster
from tests.relayd.letters import failure
from tests.relayd.publishing import Bench, run
from tests.relayd.records import consume, headers_of
from tests.relayd.rows import Connection, count, insert_row, outbox_row
from tests.support.processes import wait_until

NO_TEXT = '{"traceparent":5}'
UNKNOWN = "no.such.setting"
# A refused right to write idempotently, which is fatal to librdkafka's producer.
CLUSTER_AUTHORIZATION_FAILED = 31


def test_what_the_binding_refuses_is_held_against_the_row(
    kafka_brokers: str, unique_name: str
) -> None:
    async def scenario(bench: Bench) -> None:
        # A time that no 64 bits hold.
        bench.publisher.send(outbox_row(row_id=1), bench.settle, 1e30)
        await bench.settled(1)
        [(_, outcome)] = bench.outcomes
        assert isinstance(outcome, Rejected)
        assert outcome.error.startswith("OverflowError: ")
        assert await bench.send(outbox_row(row_id=2)) == [Acknowledged()]

    run(scenario, kafka_brokers, unique_name)


async def until_acknowledged(bench: Bench, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while await bench.send(outbox_row()) != [Acknowledged()]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def is_told(outcome: Outcome) -> bool:
    return isinstance(outcome, Unreachable) and UNKNOWN in outcome.error and outcome.is_everywhere


def test_producer_that_cannot_be_made_anew_is_kafka_being_away(unique_name: str) -> None:
    unknown: list[str] = []
    cluster = FaultyCluster()
    cluster.refuse(INIT_PRODUCER_ID, *[CLUSTER_AUTHORIZATION_FAILED] * 3)

    async def scenario(bench: Bench) -> None:
        # More than its queue takes, so that some wait while it fails.
        rows = [outbox_row(row_id=number) for number in range(20)]
        unknown.append(UNKNOWN)
        outcomes = await bench.send(*rows)
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        assert is_told(outcomes[-1])
        assert await bench.publisher.probe("") is False
        with pytest.raises(BuryError, match=UNKNOWN):
            await bench.publisher.bury(outbox_row(), failure())
        cluster.recover()
        unknown.clear()
        await until_acknowledged(bench)

    run(
        scenario,
        cluster.bootstrap_servers(),
        unique_name,
        delivery_seconds=60,
        queue_messages=5,
        unknown_settings=unknown,
    )


def test_row_refused_in_a_batch_waits_while_no_producer_can_be_made_for_it(
    unique_name: str,
) -> None:
    unknown: list[str] = []
    cluster = FaultyCluster()

    async def scenario(bench: Bench) -> None:
        assert await bench.send(outbox_row()) == [Acknowledged()]
        cluster.refuse_produce("MSG_SIZE_TOO_LARGE")
        unknown.append(UNKNOWN)
        [outcome] = await bench.send(outbox_row())
        assert is_told(outcome)
        unknown.clear()
        await until_acknowledged(bench)

    run(
        scenario,
        cluster.bootstrap_servers(),
        unique_name,
        delivery_seconds=60,
        unknown_settings=unknown,
    )


def test_row_with_a_header_that_is_no_text_ends_dead_and_holds_nothing_up(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    sick, well = uuid4(), uuid4()
    insert_row(connection, outbox_row(ticket=sick, sequence=1, headers=NO_TEXT))
    for sequence in (1, 2):
        insert_row(connection, outbox_row(ticket=well, sequence=sequence))
    insert_row(connection, outbox_row(ticket=sick, sequence=2))
    few = {"RELAYD_MAX_ATTEMPTS": "2", "RELAYD_RETRY_BASE": "50ms", "RELAYD_POLL_MAX": "50ms"}
    relayd = start_daemon("relayd", environment | few).wait_ready()
    wait_until(lambda: count(connection, "outbox") == 0, 20, "empty outbox")
    assert connection.execute("SELECT aggregate_id, sequence FROM outbox_dead").fetchall() == [
        (sick, 1)
    ]
    brokers = environment["KAFKA_BROKERS"]
    assert len(consume(brokers, environment["KAFKA_TOPIC"], 3)) == 3
    [letter] = consume(brokers, environment["KAFKA_DLQ_TOPIC"], 1)
    assert headers_of(letter)["dlq_error_class"] == "TypeError"
    # Nothing is under way any longer, so the stop does not use up its time.
    assert relayd.terminate() == 0
    assert relayd.events("drain_cut_short") == []


def test_stop_with_such_a_row_parked_is_not_cut_short(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    insert_row(connection, outbox_row(headers=NO_TEXT))
    late = {"RELAYD_RETRY_BASE": "1h", "RELAYD_RETRY_CAP": "1h"}
    relayd = start_daemon("relayd", environment | late).wait_ready()
    wait_until(lambda: count(connection, "outbox_parked"), 20, "parked key")
    assert relayd.terminate() == 0
    assert relayd.events("drain_cut_short") == []
    leased = connection.execute("SELECT FROM outbox_bucket WHERE owner IS NOT NULL").fetchall()
    assert leased == []
