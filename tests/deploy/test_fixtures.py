"""What the shared fixtures promise to every other test."""

import re
import signal
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, Producer
from redis import Redis

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from servicedesk.database import SCHEMA_VERSION


def test_database_is_migrated_and_unicode(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        versions = connection.execute("SELECT max(version) FROM schema_migration").fetchone()
        encoding = connection.execute("SHOW server_encoding").fetchone()
    assert versions == (SCHEMA_VERSION,)
    assert encoding == ("UTF8",)


def test_empty_database_has_no_table(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert tables == (0,)


def test_postgres_comes_back_on_its_port_with_its_data(own_postgres: Postgres) -> None:
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'всё на месте' AS word")
    own_postgres.restart()
    with psycopg.connect(own_postgres.url()) as connection:
        assert connection.execute("SELECT word FROM kept").fetchone() == ("всё на месте",)


def test_end_of_a_server_leaves_no_shared_memory(own_postgres: Postgres) -> None:
    assert own_postgres.child is not None
    maps = Path(f"/proc/{own_postgres.child.pid}/maps").read_text()
    segments = [Path(found) for found in re.findall(r"/\S+/PostgreSQL\.\d+", maps)]
    assert segments
    own_postgres.stop(signal.SIGQUIT)
    assert [segment for segment in segments if segment.exists()] == []


def test_kafka_topic_has_the_partitions_asked_for(shared_kafka: Kafka, unique_name: str) -> None:
    shared_kafka.create_topic(unique_name, 12)
    producer = Producer({"bootstrap.servers": shared_kafka.bootstrap_servers})
    assert len(producer.list_topics(unique_name, timeout=5).topics[unique_name].partitions) == 12


def test_kafka_keeps_its_records_while_it_is_down(own_kafka: Kafka, unique_name: str) -> None:
    quiet = {"bootstrap.servers": own_kafka.bootstrap_servers, "log_level": 0}
    own_kafka.create_topic(unique_name, 1)
    producer = Producer(quiet)
    producer.produce(unique_name, b"before")
    assert producer.flush(5) == 0
    own_kafka.down()
    producer.produce(unique_name, b"during")
    assert producer.flush(0.5) == 1
    own_kafka.up()
    assert producer.flush(10) == 0
    consumer = Consumer(
        {**quiet, "group.id": unique_name, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 10}
    )
    consumer.subscribe([unique_name])
    values = [message.value() for message in consumer.consume(2, timeout=10)]
    consumer.close()
    assert values == [b"before", b"during"]


def test_valkey_answers_with_its_password(valkey_url: str) -> None:
    client = Redis.from_url(valkey_url)
    client.set("слово", "🦊")
    assert client.get("слово") == "🦊".encode()
    client.close()
