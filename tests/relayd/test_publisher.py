"""The publisher: every row is settled once, with the verdict that fits what happened to it."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME

from relayd import producer
from servicedesk.queue.row import Acknowledged, Failure, Outcome, QueuedRow, Rejected, Unreachable
from servicedesk.queue.target import BuryError
from tests.relayd.faulty_cluster import BROKERS, INIT_PRODUCER_ID, FaultyCluster
from tests.relayd.publishing import BEGUN_AT, Bench, run
from tests.relayd.records import consume, headers_of, newest_offsets
from tests.relayd.rows import REQUEST_ID, TRACEPARENT, outbox_row
from tests.support.processes import free_port

FAILURE = Failure(
    error="MSG_SIZE_TOO_LARGE: Broker: Message size too large",
    attempts=3,
    first_failed_at=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
)
# What a busy machine may add to a bound.
BUSY_SECONDS = 8.0


@pytest.fixture(scope="module")
def whole_faulty_cluster() -> FaultyCluster:
    return FaultyCluster()


@pytest.fixture
def faulty_cluster(whole_faulty_cluster: FaultyCluster) -> FaultyCluster:
    whole_faulty_cluster.recover()
    return whole_faulty_cluster


def test_acknowledged_row_is_an_envelope_with_cloudevents_headers(
    kafka_brokers: str, unique_name: str
) -> None:
    row = outbox_row()

    async def scenario(bench: Bench) -> None:
        assert await bench.send(row) == [Acknowledged()]

    run(scenario, kafka_brokers, unique_name)
    [message] = consume(kafka_brokers, unique_name, 1)
    created_at = row.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert message.key() == str(row.aggregate_id).encode()
    assert message.timestamp() == (TIMESTAMP_CREATE_TIME, round(BEGUN_AT * 1000))
    assert orjson.loads(message.value() or b"") == {
        "event_id": str(row.event_id),
        "event_type": "ticket.created",
        "occurred_at": created_at,
        "aggregate": "ticket",
        "aggregate_id": str(row.aggregate_id),
        "sequence": 1,
        "request_id": REQUEST_ID,
        "payload": orjson.loads(row.payload),
    }
    assert headers_of(message) == {
        "ce_specversion": "1.0",
        "ce_id": str(row.event_id),
        "ce_type": "ticket.created",
        "ce_source": "/servicedesk-lite/tickets",
        "ce_time": created_at,
        "content-type": "application/json",
        "traceparent": TRACEPARENT,
    }


# From Kafka's own UtilsTest.testMurmur2, shortened to positive numbers as its partitioner does, and
# taken modulo the partitions; the UUID was put through the same Java code.
@pytest.mark.parametrize(
    ("key", "java_hash"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)],
)
def test_partition_is_the_one_a_java_client_takes(
    kafka_brokers: str, unique_name: str, key: str, java_hash: int
) -> None:
    row = outbox_row()
    keyed = row._replace(key=key)

    async def scenario(bench: Bench) -> None:
        assert await bench.send(keyed) == [Acknowledged()]

    run(scenario, kafka_brokers, unique_name)
    [message] = consume(kafka_brokers, unique_name, 1)
    assert message.partition() == (java_hash & 0x7FFFFFFF) % 4


def test_thousand_rows_are_each_settled_once_and_in_order_per_key(
    kafka_brokers: str, unique_name: str
) -> None:
    tickets = [UUID(int=number, version=4) for number in range(1, 11)]
    rows = [outbox_row(row_id=n, ticket=tickets[n % 10], sequence=n // 10 + 1) for n in range(1000)]

    async def scenario(bench: Bench) -> None:
        assert await bench.send(*rows) == [Acknowledged()] * 1000
        await asyncio.sleep(0)
        assert len(bench.outcomes) == 1000

    run(scenario, kafka_brokers, unique_name)
    messages = consume(kafka_brokers, unique_name, 1000)
    for ticket in tickets:
        mine = [m for m in messages if m.key() == str(ticket).encode()]
        found = [orjson.loads(m.value() or b"")["sequence"] for m in mine]
        assert found == list(range(1, 101))


def test_too_large_row_is_rejected_and_its_neighbours_pass(
    kafka_brokers: str, unique_name: str
) -> None:
    large = outbox_row(row_id=2, payload='{"description":"' + "я" * 1_000_000 + '"}')

    async def scenario(bench: Bench) -> None:
        first, second, third = await bench.send(outbox_row(row_id=1), large, outbox_row(row_id=3))
        assert isinstance(second, Rejected)
        assert second.error.startswith("MSG_SIZE_TOO_LARGE: ")
        assert (first, third) == (Acknowledged(), Acknowledged())

    run(scenario, kafka_brokers, unique_name)


@pytest.mark.parametrize("headers", ["", "[]", "{", '{"traceparent":5}'])
def test_row_with_malformed_headers_is_rejected(
    kafka_brokers: str, unique_name: str, headers: str
) -> None:
    async def scenario(bench: Bench) -> None:
        [outcome] = await bench.send(outbox_row(headers=headers))
        assert isinstance(outcome, Rejected)

    run(scenario, kafka_brokers, unique_name)


def test_broker_away_makes_rows_unreachable_within_the_delivery_time_out() -> None:
    async def scenario(bench: Bench) -> None:
        started = time.monotonic()
        rows = [outbox_row(row_id=number) for number in range(50)]
        outcomes = await bench.send(*rows)
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        assert time.monotonic() - started < 0.5 * 1.25 + 1.0 + BUSY_SECONDS
        assert await bench.publisher.probe("") is False

    address = f"127.0.0.1:{free_port()}"
    run(scenario, address, "away", delivery_seconds=0.5, probe_seconds=0.5)


def test_outage_is_told_once_in_the_log(unique_name: str) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(3):
            await bench.send(outbox_row(row_id=number))
            await bench.publisher.probe("")
        events = [orjson.loads(line) for line in bench.log.getvalue().splitlines()]
        told = [
            (event["event"], event.get("reason", event.get("error", "")).partition(":")[0])
            for event in events
        ]
        assert ("kafka_unreachable", "_TRANSPORT") in told
        assert len(set(told)) == len(told)

    address = f"127.0.0.1:{free_port()}"
    run(scenario, address, unique_name, delivery_seconds=0.2, probe_seconds=0.5)


def test_probe_answers_true_for_a_cluster_that_is_there(
    kafka_brokers: str, unique_name: str
) -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.publisher.probe("") is True

    run(scenario, kafka_brokers, unique_name)


def test_nothing_is_sent_before_the_preparation_has_succeeded(
    kafka_brokers: str, unique_name: str
) -> None:
    answers = iter(["_TRANSPORT: nobody there", ""])

    async def scenario(bench: Bench) -> None:
        assert await bench.send(outbox_row()) == [
            Unreachable(error="_TRANSPORT: nobody there", is_everywhere=True)
        ]
        assert await bench.publisher.probe("") is True
        assert await bench.send(outbox_row()) == [Acknowledged()]

    run(scenario, kafka_brokers, unique_name, prepare=lambda: next(answers))


def test_full_queue_holds_rows_back_without_blocking(kafka_brokers: str, unique_name: str) -> None:
    rows = [outbox_row(row_id=number) for number in range(100)]

    async def scenario(bench: Bench) -> None:
        started = time.monotonic()
        for row in rows:
            bench.publisher.send(row, bench.settle, BEGUN_AT)
        assert time.monotonic() - started < BUSY_SECONDS
        await bench.settled(100)
        assert [outcome for _, outcome in bench.outcomes] == [Acknowledged()] * 100

    run(scenario, kafka_brokers, unique_name, queue_messages=5, delivery_seconds=60)
    assert newest_offsets(kafka_brokers, unique_name) == 100


def test_full_queue_of_a_broker_away_settles_every_row_in_time(unique_name: str) -> None:
    rows = [outbox_row(row_id=number) for number in range(20)]

    async def scenario(bench: Bench) -> None:
        started = time.monotonic()
        outcomes = await bench.send(*rows)
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        assert time.monotonic() - started < 0.4 * 1.25 + 1.0 + BUSY_SECONDS

    run(
        scenario,
        f"127.0.0.1:{free_port()}",
        unique_name,
        delivery_seconds=0.4,
        queue_messages=5,
        probe_seconds=0.5,
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_RECORD", Rejected),
        ("POLICY_VIOLATION", Rejected),
        ("MSG_SIZE_TOO_LARGE", Rejected),
        ("INVALID_TIMESTAMP", Unreachable),
        ("TOPIC_AUTHORIZATION_FAILED", Unreachable),
        ("UNSUPPORTED_COMPRESSION_TYPE", Unreachable),
    ],
)
def test_refusal_of_a_broker_is_held_against_whom_it_concerns(
    faulty_cluster: FaultyCluster, unique_name: str, code: str, kind: type[Outcome]
) -> None:
    async def scenario(bench: Bench) -> None:
        faulty_cluster.refuse_produce(code, times=2)  # in its batch, and then alone
        [outcome] = await bench.send(outbox_row())
        assert isinstance(outcome, kind)
        assert not isinstance(outcome, Acknowledged)
        assert outcome.error.startswith(f"{code}: ")

    run(scenario, faulty_cluster.bootstrap_servers(), unique_name, delivery_seconds=60)


def test_rows_refused_with_their_batch_are_sent_again_alone(
    faulty_cluster: FaultyCluster, unique_name: str
) -> None:
    async def scenario(bench: Bench) -> None:
        faulty_cluster.refuse_produce("MSG_SIZE_TOO_LARGE")
        rows = [outbox_row(row_id=number) for number in range(20)]
        assert await bench.send(*rows) == [Acknowledged()] * 20
        assert "batch_refused" in bench.log.getvalue()

    run(scenario, faulty_cluster.bootstrap_servers(), unique_name, delivery_seconds=60)


def test_partitions_of_a_broker_do_not_wait_for_each_other(
    faulty_cluster: FaultyCluster, unique_name: str
) -> None:
    # So many that one after the other takes far longer than a busy machine.
    partitions_each = 12
    faulty_cluster.create_topic(unique_name, BROKERS * partitions_each)

    async def scenario(bench: Bench) -> None:
        rows = [outbox_row(row_id=number) for number in range(200)]
        await bench.send(*rows)
        faulty_cluster.answer_after(1.0)
        started = time.monotonic()
        assert await bench.send(*rows) == [Acknowledged()] * 200
        assert time.monotonic() - started < partitions_each * 1.0

    run(scenario, faulty_cluster.bootstrap_servers(), unique_name, delivery_seconds=60)


def test_transient_refusal_is_ridden_out(faulty_cluster: FaultyCluster, unique_name: str) -> None:
    async def scenario(bench: Bench) -> None:
        faulty_cluster.refuse_produce("NOT_ENOUGH_REPLICAS", times=2)
        assert await bench.send(outbox_row()) == [Acknowledged()]

    run(scenario, faulty_cluster.bootstrap_servers(), unique_name)


def test_producer_that_failed_for_good_is_replaced(
    faulty_cluster: FaultyCluster, unique_name: str
) -> None:
    # A refused right to write idempotently is fatal to librdkafka's producer.
    faulty_cluster.refuse(INIT_PRODUCER_ID, 31, 31, 31)

    async def scenario(bench: Bench) -> None:
        rows = [outbox_row(row_id=number) for number in range(10)]
        # Long before their delivery time-out.
        outcomes = await bench.send(*rows)
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        faulty_cluster.recover()
        deadline = time.monotonic() + 10
        while await bench.send(rows[0]) != [Acknowledged()]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert '"event":"producer_failed"' in bench.log.getvalue()

    run(scenario, faulty_cluster.bootstrap_servers(), unique_name, delivery_seconds=60)


def test_closing_settles_what_is_under_way(unique_name: str) -> None:
    async def scenario(bench: Bench) -> None:
        rows = [outbox_row(row_id=number) for number in range(30)]
        for row in rows:
            bench.publisher.send(row, bench.settle, BEGUN_AT)
        bench.publisher.close()
        assert sorted(row.id for row, _ in bench.outcomes) == list(range(30))
        assert all(isinstance(outcome, Unreachable) for _, outcome in bench.outcomes)

    address = f"127.0.0.1:{free_port()}"
    run(scenario, address, unique_name, queue_messages=20, probe_seconds=0.5)


def test_closing_waits_for_the_end_of_librdkafka(
    kafka_brokers: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "CLOSE_SECONDS", 30.0)

    async def scenario(bench: Bench) -> None:
        assert await bench.send(outbox_row()) == [Acknowledged()]
        before = set(threading.enumerate())
        bench.publisher.close()
        # A stop leaves no thread inside librdkafka while the interpreter ends.
        assert set(threading.enumerate()) <= before

    run(scenario, kafka_brokers, unique_name)


def test_dead_letter_tells_what_happened(kafka_brokers: str, unique_name: str) -> None:
    row = outbox_row()

    async def scenario(bench: Bench) -> None:
        await bench.publisher.bury(row, FAILURE)

    run(scenario, kafka_brokers, unique_name)
    [message] = consume(kafka_brokers, f"{unique_name}.dlq", 1)
    assert message.key() == row.key.encode()
    assert orjson.loads(message.value() or b"")["event_id"] == str(row.event_id)
    headers = headers_of(message)
    assert headers["traceparent"] == TRACEPARENT
    assert {name: text for name, text in headers.items() if name.startswith("dlq_")} == {
        "dlq_original_topic": unique_name,
        "dlq_event_id": str(row.event_id),
        "dlq_key": row.key,
        "dlq_attempts": "3",
        "dlq_first_failed_at": "2025-01-02T03:04:05.000000Z",
        "dlq_error_class": "MSG_SIZE_TOO_LARGE",
        "dlq_error_message": "Broker: Message size too large",
    }


def test_long_error_is_cut_between_characters(kafka_brokers: str, unique_name: str) -> None:
    failure = Failure(
        error="Беда: " + "я" * 5000, attempts=1, first_failed_at=datetime.now(UTC) - timedelta(1)
    )

    async def scenario(bench: Bench) -> None:
        await bench.publisher.bury(outbox_row(), failure)

    run(scenario, kafka_brokers, unique_name)
    [message] = consume(kafka_brokers, f"{unique_name}.dlq", 1)
    text = headers_of(message)["dlq_error_message"]
    assert set(text) == {"я"}
    assert 700 < len(text.encode()) <= 1024


@pytest.mark.parametrize(
    "row",
    [
        outbox_row(payload='{"description":"' + "x" * 2_000_000 + '"}'),
        outbox_row(headers="{"),
        outbox_row(headers='{"traceparent":5}'),
        outbox_row()._replace(event_type="x" * 2_000_000),
    ],
    ids=["too large", "malformed", "header is no text", "too large header"],
)
def test_dead_letter_that_cannot_hold_its_value_goes_without(
    kafka_brokers: str, unique_name: str, row: QueuedRow
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.publisher.bury(row, FAILURE)

    run(scenario, kafka_brokers, unique_name)
    [message] = consume(kafka_brokers, f"{unique_name}.dlq", 1)
    assert not message.value()
    assert headers_of(message)["dlq_value"].endswith("outbox_dead")
    assert headers_of(message)["dlq_event_id"] == str(row.event_id)


def test_burying_fails_while_kafka_is_away(unique_name: str) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(BuryError, match="_MSG_TIMED_OUT"):
            await bench.publisher.bury(outbox_row(), FAILURE)

    address = f"127.0.0.1:{free_port()}"
    run(scenario, address, unique_name, delivery_seconds=0.2, probe_seconds=0.5)
