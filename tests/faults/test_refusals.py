"""Scenario 5: Kafka refuses. An event that is too large parks its own ticket; what every event
would meet, a right taken away or a topic that is gone, is an outage and counts no attempt."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from deploy.local.apache import ApacheKafka
from tests.conftest import CreateCluster
from tests.faults.meanwhile import has_caught_up, judged, seconds_until, steady_load
from tests.faults.scenario import Scenario
from tests.pipeline.pipeline import Pipeline
from tests.support.processes import wait_until
from tests.support.topic_log import read_topic
from tests.support.webhooks import WebhookReceiver

pytestmark = [pytest.mark.kafka, pytest.mark.pipeline, pytest.mark.timeout(600)]

AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
ANSWER_SECONDS = 20.0
# Below a batch of small events that were sent at once, and below the large one by itself.
LIMIT_BYTES = 16_384
LARGE_BYTES = 60_000
PARKED = "SELECT count(*) FROM outbox_parked"
DEAD = "SELECT count(*) FROM outbox_dead"


@pytest.fixture(scope="module")
def guarded(create_cluster: CreateCluster) -> Iterator[ApacheKafka]:
    """One broker that asks what a client may do."""
    cluster = create_cluster(settings=AUTHORIZER)
    yield cluster
    cluster.kill()


def ask(cluster: ApacheKafka, act: Callable[[AdminClient], Mapping[Any, Future[Any]]]) -> None:
    """Returns when the cluster has done it all."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    for answer in act(admin).values():
        answer.result(ANSWER_SECONDS)


def limit_messages(cluster: ApacheKafka, topic: str, most_bytes: int) -> None:
    entry = ConfigEntry(
        "max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    ask(cluster, lambda admin: admin.incremental_alter_configs([resource]))


@contextmanager
def denied(cluster: ApacheKafka, topic: str, operation: AclOperation) -> Iterator[None]:
    """Inside the `with` nobody has the one right on the topic, and all others."""
    bindings = [
        acl(topic, AclOperation.ALL, AclPermissionType.ALLOW),
        acl(topic, operation, AclPermissionType.DENY),
    ]
    ask(cluster, lambda admin: admin.create_acls(bindings))
    yield
    of_topic = AclBindingFilter(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*",
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip
    ask(cluster, lambda admin: admin.delete_acls([of_topic]))


def acl(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*",
        operation, permission,
    )  # fmt: skip


def insert_with_large(pipeline: Pipeline, ticket: UUID, large: int, last: int) -> None:
    """Events 1 to `last` of a ticket, of which `large` is too large and cannot be compressed."""
    pipeline.insert(ticket, range(1, large))
    text = secrets.token_urlsafe(LARGE_BYTES)
    pipeline.insert(ticket, range(large, large + 1), payload=f'{{"x": "{text}"}}')
    pipeline.insert(ticket, range(large + 1, last + 1))


def offsets(brokers: str, topic: str, group: str) -> tuple[dict[int, int], dict[int, int]]:
    """What the group has committed and where the topic ends, of each partition with records."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "log_level": 0})
    try:
        numbers = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic].partitions
        partitions = [TopicPartition(topic, number) for number in numbers]
        ends = {
            each.partition: consumer.get_watermark_offsets(each, timeout=ANSWER_SECONDS)[1]
            for each in partitions
        }
        found = consumer.committed(partitions, timeout=ANSWER_SECONDS)
    finally:
        consumer.close()
    held = {number for number, end in ends.items() if end > 0}
    return (
        {each.partition: each.offset for each in found if each.partition in held},
        {number: ends[number] for number in held},
    )


def is_parked(pipeline: Pipeline, ticket: UUID) -> bool:
    return pipeline.count(f"{PARKED} WHERE key = '{ticket}'") == 1


def test_too_large_event_on_a_busy_key(
    database_url: str,
    guarded: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    backlog_tickets = scenario.pick(short=200, full=2_000)
    given_up, passing = uuid4(), uuid4()
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=guarded.bootstrap_servers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings={"RELAYD_MAX_ATTEMPTS": "6", "RELAYD_RETRY_CAP": "2s"},
        ) as pipeline,
    ):
        topic, dlq = (pipeline.environment[f"KAFKA_{name}"] for name in ("TOPIC", "DLQ_TOPIC"))
        guarded.create_topic(topic, 12)
        guarded.create_topic(dlq, 12)
        limit_messages(guarded, topic, LIMIT_BYTES)
        # Sent at full speed: the batches are above the limit, the events in them are not.
        direct = pipeline.fill(tickets=backlog_tickets, events=25)
        ticketd, relayd, _ = pipeline.start("ticketd", "relayd", "notifyd")
        load = steady_load(pipeline, ticketd, rate=100)
        with denied(guarded, dlq, AclOperation.WRITE):
            insert_with_large(pipeline, given_up, large=11, last=20)
            wait_until(lambda: relayd.events("bury_postponed"), 60, "dead letter that is refused")
            assert pipeline.count(DEAD) == 0
            seconds_until(lambda: has_caught_up(pipeline, but=1), 60, "end of all but one ticket")
            assert is_parked(pipeline, given_up)
        wait_until(lambda: pipeline.count(DEAD) == 1, 60, "end of the attempts")

        # The next one is not to end before the limit is raised, however long that takes.
        assert relayd.terminate() == 0
        relayd.environment["RELAYD_MAX_ATTEMPTS"] = "1000"
        relayd.start().wait_ready()
        insert_with_large(pipeline, passing, large=11, last=20)
        wait_until(lambda: is_parked(pipeline, passing), 30, "parked ticket")
        limit_messages(guarded, topic, 1_000_000)
        parked_for = seconds_until(lambda: not is_parked(pipeline, passing), 60, "freed ticket")

        direct += [(str(given_up), n) for n in range(1, 21) if n != 11]
        direct += [(str(passing), n) for n in range(1, 21)]
        verdict = judged(pipeline, load, "sink", 120, direct=direct)
        refused = {event["key"] for event in relayd.events("row_rejected")}
        assert refused == {str(given_up), str(passing)}
        letters = read_topic(guarded.bootstrap_servers, dlq)
        assert {(letter.ticket, letter.sequence) for letter in letters} == {(str(given_up), 11)}
        # The one event that this scenario gives up by intent.
        assert verdict.dead == 1
        scenario.conclude(
            5,
            "events above the topic's limit on two tickets: one given up, one passed at last "
            "(the one given up is not counted)",
            replace(verdict, dead=0),
            {
                "rows refused": len(relayd.events("row_rejected")),
                "passed seconds after the limit was raised": parked_for,
            },
        )


def test_rights_taken_away_and_topic_made_again(
    database_url: str,
    guarded: ApacheKafka,
    unique_name: str,
    tmp_path: Path,
    scenario: Scenario,
) -> None:
    away_seconds = scenario.pick(short=4.0, full=60.0)
    brokers = guarded.bootstrap_servers
    with (
        WebhookReceiver() as receiver,
        Pipeline(
            database_url=database_url,
            kafka_brokers=brokers,
            name=unique_name,
            receivers={"sink": receiver},
            directory=tmp_path,
            settings={"RELAYD_MAX_ATTEMPTS": "1"},
        ) as pipeline,
    ):
        topic = pipeline.environment["KAFKA_TOPIC"]
        ticketd, relayd, notifyd = pipeline.start("ticketd", "relayd", "notifyd")
        load = steady_load(pipeline, ticketd, rate=150)
        wait_until(receiver.has_taken(100), 30, "the first deliveries")
        with denied(guarded, topic, AclOperation.READ):
            load.goes_on_for(away_seconds)
        with denied(guarded, topic, AclOperation.WRITE):
            wait_until(lambda: not relayd.is_ready(), 20, "relayd that is not ready")
            load.goes_on_for(away_seconds)
            assert "TOPIC_AUTHORIZATION_FAILED" in relayd.text()
            # Nothing comes into the topic now. What it holds is taken in before it goes.
            former = read_topic(brokers, topic)
            pipeline.wait_delivered("sink", len({each.event_id for each in former}), 60)
            ask(guarded, lambda admin: admin.delete_topics([topic]))
        gone_at = time.monotonic()
        load.goes_on_for(away_seconds)
        wait_until(
            lambda: "UNKNOWN_TOPIC" in relayd.text(), 20, "relayd that finds the topic missing"
        )
        assert pipeline.count(PARKED) == 0
        guarded.create_topic(topic, 12)
        without_topic = time.monotonic() - gone_at
        recovery = seconds_until(lambda: has_caught_up(pipeline), 60, "end of the backlog")
        verdict = judged(pipeline, load, "sink", 120, former=former)
        assert relayd.events("row_rejected") == []
        wait_until(notifyd.is_ready, 15, "notifyd that is ready again")
        assert notifyd.terminate() == 0
        committed, ends = offsets(brokers, topic, unique_name)
        # None of the former topic, which would pass over records of the new one.
        assert committed == ends
        scenario.conclude(
            5,
            "rights to read and to write taken away, then the topic deleted and made again",
            verdict,
            {
                "each right away for seconds": away_seconds,
                "topic away for seconds": round(without_topic, 1),
                "caught up after seconds": recovery,
            },
        )
