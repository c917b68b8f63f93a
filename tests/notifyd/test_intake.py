"""The first stage: a bad record leaves its batch alone, and nothing is given up while others are
away."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

import orjson
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.kafka import Kafka
from notifyd.dead_letters import DeadLetters
from notifyd.intake import Intake
from notifyd.metrics import IngestMetrics
from notifyd.notifications import Subscription, Subscriptions
from notifyd.record import Record, Rest, delivery_headers, read_arrival
from notifyd.store import InboxStore
from servicedesk.backoff import Backoff
from servicedesk.event import MalformedEventError
from servicedesk.queue.row import Failure
from servicedesk.queue.statements import Pool
from servicedesk.queue.target import BuryError
from tests.notifyd.samples import (
    MOMENT,
    TRACEPARENT,
    Lines,
    dead_letters_at,
    event,
    execute,
    fetch,
    headers_of,
    log_to,
    queued_row,
    read_topic,
    record,
    with_pool,
)

Result = TypeVar("Result")


def with_intake(
    url: str,
    brokers: str,
    name: str,
    act: Callable[[Intake, CollectorRegistry], Awaitable[Result]],
    *,
    seconds: float = 10.0,
) -> Result:
    """Runs `act` with an intake that gives a dead letter up after `seconds`."""

    async def scenario(pool: Pool) -> Result:
        registry = CollectorRegistry()
        everything = Subscription(receiver="log", event_types=("*",))
        store = InboxStore(pool, Subscriptions([everything]))
        intake = Intake(
            store=store,
            dead_letters=dead_letters_at(brokers, name, seconds=seconds),
            metrics=IngestMetrics(registry),
            log=log_to(Lines()),
            backoff=Backoff(base_seconds=0.02, cap_seconds=0.1),
            random=random.random,
            now=lambda: MOMENT,
        )
        try:
            return await act(intake, registry)
        finally:
            await store.close()

    return asyncio.run(with_pool(url, scenario))


def counted(registry: CollectorRegistry, name: str) -> float | None:
    return registry.get_sample_value(f"notifyd_{name}_total")


def test_malformed_records_go_to_the_dead_letter_topic_alone(
    database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    good = [record(event(uuid4()), offset=n) for n in (0, 2)]
    bad = record("не JSON".encode(), topic=unique_name, partition=3, offset=1)

    async def act(intake: Intake, registry: CollectorRegistry) -> list[float | None]:
        assert await intake.take_in(intake.prepare([good[0], bad, good[1]])) == 2
        assert await intake.take_in(intake.prepare([good[0]])) == 0
        return [counted(registry, name) for name in ("ingested", "duplicates", "malformed")]

    found = with_intake(database_url, kafka_brokers, unique_name, act)
    assert found == [2.0, 1.0, 1.0]
    assert fetch(database_url, "SELECT count(*) FROM delivery") == [(2,)]
    [dead] = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 1)
    assert dead.value() == "не JSON".encode()
    assert dead.key() == b"?"
    headers = headers_of(dead)
    assert headers["dlq_original_topic"] == unique_name
    assert headers["dlq_original_partition"] == "3"
    assert headers["dlq_original_offset"] == "1"
    assert headers["dlq_original_timestamp"] == "1772368200000"
    assert headers["dlq_attempts"] == "1"
    assert headers["dlq_first_failed_at"] == "2026-03-01T12:30:00.000000Z"
    assert headers["dlq_error_class"] == "MalformedEventError"
    assert headers["dlq_error_message"].startswith("not JSON")


@pytest.mark.parametrize(
    "value", [None, b"", b"nonsense", f"{TRACEPARENT}-\r".encode(), f"{TRACEPARENT}-я".encode()]
)
def test_malformed_trace_is_left_out_and_costs_no_event(value: bytes | None) -> None:
    rest = Rest(key=None, timestamp_ms=-1, headers=[("traceparent", value)])
    arrival = read_arrival(record(event(uuid4()))._replace(rest=lambda: rest))
    assert orjson.loads(delivery_headers(arrival))["traceparent"] is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "aggregate"),
    ],
)
def test_every_kind_of_garbage_is_told_apart(
    database_url: str, kafka_brokers: str, unique_name: str, value: bytes | None, reason: str
) -> None:
    rest = Rest(key=None, timestamp_ms=-1, headers=[])
    garbage = Record(unique_name, 0, 0, value, lambda: rest)

    async def act(intake: Intake, registry: CollectorRegistry) -> int:
        return await intake.take_in(intake.prepare([garbage]))

    assert with_intake(database_url, kafka_brokers, unique_name, act) == 0
    [dead] = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 1)
    assert headers_of(dead)["dlq_error_message"].startswith(reason)


def test_event_that_the_database_refuses_is_singled_out(
    database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    execute(database_url, "ALTER TABLE delivery ADD CHECK (event_type <> 'ticket.poison')")
    batch = [record(event(uuid4()), offset=n) for n in range(9)]
    batch.insert(6, record(event(uuid4(), event_type="ticket.poison"), offset=99))

    async def act(intake: Intake, registry: CollectorRegistry) -> int:
        return await intake.take_in(intake.prepare(batch))

    assert with_intake(database_url, kafka_brokers, unique_name, act) == 9
    assert fetch(database_url, "SELECT count(*) FROM inbox") == [(9,)]
    [dead] = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 1)
    assert headers_of(dead)["dlq_original_offset"] == "99"
    assert headers_of(dead)["dlq_error_message"] == "refused by the database: 23514"


def test_lost_connections_and_missing_tables_are_waited_for(
    database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    async def act(intake: Intake, registry: CollectorRegistry) -> None:
        execute(database_url, "ALTER TABLE delivery RENAME TO hidden")
        taking = asyncio.create_task(intake.take_in(intake.prepare([record(event(uuid4()))])))
        while intake.readiness()["database"] == "ok":
            await asyncio.sleep(0.01)
        assert intake.readiness()["database"] == "away: UndefinedTable"
        execute(database_url, "ALTER TABLE hidden RENAME TO delivery")
        assert await taking == 1
        assert intake.readiness()["database"] == "ok"
        # The pool's connections die under it.
        execute(
            database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        assert await intake.take_in(intake.prepare([record(event(uuid4()))])) == 1

    with_intake(database_url, kafka_brokers, unique_name, act)
    assert fetch(database_url, "SELECT count(*) FROM delivery") == [(2,)]


def test_malformed_record_waits_for_the_dead_letter_topic(
    database_url: str, own_kafka: Kafka, unique_name: str
) -> None:
    batch = [record(b"garbage", topic=unique_name), record(event(uuid4()), offset=1)]

    async def act(intake: Intake, registry: CollectorRegistry) -> None:
        # Once, so that the topic and its leader are known.
        await intake.take_in(intake.prepare([record(b"first", topic=unique_name)]))
        own_kafka.down()
        taking = asyncio.create_task(intake.take_in(intake.prepare(batch)))
        while intake.readiness()["dead_letters"] == "ok":
            assert not taking.done()
            await asyncio.sleep(0.01)
        # The good one has not waited for the bad one.
        assert await asyncio.to_thread(fetch, database_url, "SELECT count(*) FROM inbox") == [(1,)]
        own_kafka.up()
        await taking

    brokers = own_kafka.bootstrap_servers
    with_intake(database_url, brokers, unique_name, act, seconds=1.0)
    dead = read_topic(brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 2)
    assert {each.value() for each in dead} == {b"first", b"garbage"}


def bury(brokers: str, name: str, act: Callable[[DeadLetters], Awaitable[None]]) -> dict[str, Any]:
    """The one dead letter that `act` publishes: its value and its headers."""

    async def scenario() -> None:
        await act(dead_letters_at(brokers, name))

    asyncio.run(scenario())
    [dead] = read_topic(brokers, f"{name}.dlq", f"{name}-dlq", 1)
    return {"value": dead.value(), "key": dead.key(), **headers_of(dead)}


def test_dead_delivery_tells_where_it_comes_from_and_why(
    kafka_brokers: str, unique_name: str
) -> None:
    row = queued_row(receiver="webhook:crm")
    failure = Failure(
        error="HTTPStatus: " + "500 ошибка " * 200, attempts=7, first_failed_at=MOMENT
    )

    async def act(dead_letters: DeadLetters) -> None:
        await dead_letters.bury_delivery(row, failure)

    found = bury(kafka_brokers, unique_name, act)
    assert found["value"] == row.payload
    assert found["key"] == str(row.aggregate_id).encode()
    expected = {
        "dlq_original_topic": "tickets.events",
        "dlq_original_partition": "3",
        "dlq_original_offset": "42",
        "dlq_original_timestamp": "1772368200000",
        "dlq_event_id": str(row.event_id),
        "dlq_receiver": "webhook:crm",
        "dlq_attempts": "7",
        "dlq_first_failed_at": "2026-03-01T12:30:00.000000Z",
        "dlq_error_class": "HTTPStatus",
        "traceparent": TRACEPARENT,
    }
    assert {name: found[name] for name in expected} == expected
    size = len((found["dlq_error_class"] + found["dlq_error_message"]).encode())
    assert 700 < size <= 1024


def test_record_too_large_for_the_topic_leaves_its_place_behind(
    kafka_brokers: str, unique_name: str
) -> None:
    huge = record(b"x" * 1_200_000, topic=unique_name, partition=1, offset=5)

    async def act(dead_letters: DeadLetters) -> None:
        await dead_letters.bury_record(huge, MalformedEventError("not JSON"), MOMENT)

    found = bury(kafka_brokers, unique_name, act)
    assert found["value"] is None
    assert "too large" in found["dlq_value_omitted"]
    assert (found["dlq_original_partition"], found["dlq_original_offset"]) == ("1", "5")


@pytest.mark.parametrize(
    ("key", "headers"), [(b"k" * 1_200_000, []), (b"k", [("h", b"x" * 1_200_000)])]
)
def test_record_whose_key_or_headers_are_too_large_leaves_its_place_behind(
    kafka_brokers: str, unique_name: str, key: bytes, headers: list[tuple[str, bytes | None]]
) -> None:
    rest = Rest(key=key, timestamp_ms=-1, headers=headers)
    huge = Record(unique_name, 1, 5, b"not JSON", lambda: rest)

    async def act(dead_letters: DeadLetters) -> None:
        await dead_letters.bury_record(huge, MalformedEventError("not JSON"), MOMENT)

    found = bury(kafka_brokers, unique_name, act)
    assert (found["key"], found["value"]) == (None, None)
    assert "too large" in found["dlq_value_omitted"]
    assert (found["dlq_original_partition"], found["dlq_original_offset"]) == ("1", "5")


def test_dead_letter_is_not_buried_while_kafka_is_away(own_kafka: Kafka, unique_name: str) -> None:
    failure = Failure(error="HTTPStatus: 500", attempts=1, first_failed_at=MOMENT)

    async def scenario() -> None:
        dead_letters = dead_letters_at(own_kafka.bootstrap_servers, unique_name, seconds=1.0)
        own_kafka.down()
        with pytest.raises(BuryError, match=unique_name):
            await dead_letters.bury_delivery(queued_row(), failure)

    asyncio.run(scenario())
