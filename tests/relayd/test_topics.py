"""Topics at the start: made where the cluster allows it, left alone where they exist."""

import asyncio
import io
import random
import time

import orjson
import pytest
from confluent_kafka import Producer

from deploy.local.apache import ApacheKafka
from relayd.notices import Notices
from relayd.producer import ProducerSettings
from relayd.publisher import Publisher
from relayd.topics import FENCE, Topics, ensure_topics
from servicedesk.logs import Log
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Unreachable
from tests.relayd.records import newest_offsets
from tests.relayd.rows import outbox_row
from tests.support.processes import free_port

FENCE_SECONDS = 7.25


def settled(brokers: str, name: str) -> tuple[str, list[dict[str, object]]]:
    lines = io.StringIO()
    topics = Topics(
        brokers=brokers,
        client_id="test",
        topic=name,
        dlq_topic=f"{name}.dlq",
        partitions=3,
        replication=None,
        fence_seconds=FENCE_SECONDS,
    )
    reason = ensure_topics(topics, Log("relayd", stream=lines))
    return reason, [orjson.loads(line) for line in lines.getvalue().splitlines()]


def test_cluster_that_cannot_create_topics_is_one_line(
    kafka_brokers: str, unique_name: str
) -> None:
    reason, [line] = settled(kafka_brokers, unique_name)
    assert reason == ""
    assert line["event"] == "topics_not_created"
    assert line["topics"] == [unique_name, f"{unique_name}.dlq"]


def test_topic_that_exists_is_left_alone(kafka_brokers: str, unique_name: str) -> None:
    producer = Producer({"bootstrap.servers": kafka_brokers})
    for name in (unique_name, f"{unique_name}.dlq"):
        assert producer.list_topics(name, timeout=10).topics[name].error is None
    reason, lines = settled(kafka_brokers, unique_name)
    assert reason == ""
    (line,) = lines
    assert line["event"] == "topic_fence_unknown"
    assert str(line["reason"]).startswith("_TIMED_OUT: ")


def test_cluster_away_says_why_and_may_be_asked_again(unique_name: str) -> None:
    reason, lines = settled(f"127.0.0.1:{free_port()}", unique_name)
    assert reason.startswith("_TRANSPORT: ")
    assert lines == []


@pytest.mark.kafka
def test_topic_without_the_fence_is_told_with_the_remedy(
    apache_kafka: ApacheKafka, unique_name: str
) -> None:
    for name in (unique_name, f"{unique_name}.dlq"):
        apache_kafka.create_topic(name, 1)
    reason, [line] = settled(apache_kafka.bootstrap_servers, unique_name)
    assert reason == ""
    assert line["event"] == "topic_fence_differs"
    assert str(line["remedy"]).endswith(f"--add-config {FENCE}=7250")


@pytest.mark.kafka
def test_topic_refuses_a_record_that_is_older_than_its_sender_may_be_trusted(
    apache_kafka: ApacheKafka, unique_name: str
) -> None:
    brokers = apache_kafka.bootstrap_servers
    reason, lines = settled(brokers, unique_name)
    assert reason == ""
    assert [line["event"] for line in lines] == ["topic_created", "topic_created"]
    in_time, late = outbox_row(row_id=1), outbox_row(row_id=2)
    outcomes = asyncio.run(_send(brokers, unique_name, {in_time: 1, late: 8}))
    assert outcomes[in_time.id] == Acknowledged()
    refusal = outcomes[late.id]
    assert isinstance(refusal, Unreachable)
    assert refusal.error.startswith("INVALID_TIMESTAMP: ")
    assert refusal.error.endswith("the clocks of relayd and the broker disagree")
    assert newest_offsets(brokers, unique_name) == 1


async def _send(brokers: str, topic: str, ages: dict[QueuedRow, float]) -> dict[int, Outcome]:
    """Each row as if begun so many seconds ago, and alone, so that they do not share a batch."""
    settings = ProducerSettings(
        brokers=brokers,
        client_id="test",
        compression="lz4",
        message_max_bytes=1_000_000,
        delivery_seconds=5.0,
        linger_seconds=0.0,
        queue_messages=10,
    )
    publisher = Publisher(
        settings,
        topic=topic,
        dlq_topic=f"{topic}.dlq",
        notices=Notices(Log("relayd", stream=io.StringIO()), time.monotonic),
        prepare=lambda: "",
        random=random.random,
    )
    await publisher.prepare()
    outcomes: dict[int, Outcome] = {}
    for row, age in ages.items():
        begun_at = time.time() - age
        publisher.send(row, lambda row, outcome: outcomes.update({row.id: outcome}), begun_at)
        async with asyncio.timeout(10):
            while row.id not in outcomes:
                await asyncio.sleep(0.005)
    publisher.close()
    return outcomes
