"""Topics at the start: made where the cluster allows it, left alone where they exist."""

import io

import orjson
from confluent_kafka import Producer

from relayd.topics import Topics, ensure_topics
from servicedesk.logs import Log
from tests.support.processes import free_port


def settled(brokers: str, *names: str) -> tuple[str, list[dict[str, object]]]:
    lines = io.StringIO()
    topics = Topics(brokers=brokers, client_id="test", names=names, partitions=3, replication=None)
    reason = ensure_topics(topics, Log("relayd", stream=lines))
    return reason, [orjson.loads(line) for line in lines.getvalue().splitlines()]


def test_cluster_that_cannot_create_topics_is_one_line(
    kafka_brokers: str, unique_name: str
) -> None:
    reason, [line] = settled(kafka_brokers, unique_name, f"{unique_name}.dlq")
    assert reason == ""
    assert line["event"] == "topics_not_created"
    assert line["topics"] == [unique_name, f"{unique_name}.dlq"]


def test_topic_that_exists_is_left_alone(kafka_brokers: str, unique_name: str) -> None:

    producer = Producer({"bootstrap.servers": kafka_brokers})
    assert producer.list_topics(unique_name, timeout=10).topics[unique_name].error is None
    assert settled(kafka_brokers, unique_name) == ("", [])


def test_cluster_away_says_why_and_may_be_asked_again(unique_name: str) -> None:
    reason, lines = settled(f"127.0.0.1:{free_port()}", unique_name)
    assert reason.startswith("_TRANSPORT: ")
    assert lines == []
