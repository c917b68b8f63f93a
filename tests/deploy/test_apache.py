"""Apache Kafka as the tests and the stack start it: one broker or three, killed and restarted."""

import secrets
from pathlib import Path

import pytest
from confluent_kafka import Producer

from deploy.local.apache import ApacheKafka, kafka_jars
from deploy.local.child import StartError
from deploy.local.maven import Jars
from tests.conftest import CreateCluster
from tests.support.processes import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def produce(cluster: ApacheKafka, topic: str, partition: int) -> int:
    """One record, acknowledged by all replicas; its offset."""
    offsets: list[int | None] = []
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
    producer.produce(
        topic, "событие".encode(), partition=partition,
        on_delivery=lambda error, message: offsets.append(None if error else message.offset()),
    )  # fmt: skip
    assert producer.flush(60) == 0
    assert offsets[0] is not None
    return offsets[0]


def test_broker_keeps_topics_and_records_through_a_crash(
    create_cluster: CreateCluster, unique_name: str
) -> None:
    cluster = create_cluster()
    cluster.create_topic(unique_name, 3)
    assert [produce(cluster, unique_name, 2) for _ in range(2)] == [0, 1]
    cluster.kill()
    cluster.start()
    cluster.wait_ready()
    assert len(cluster.leaders(unique_name)) == 3
    assert produce(cluster, unique_name, 2) == 2
    cluster.kill()


def test_cluster_starts_also_when_its_random_id_begins_with_a_dash(
    create_cluster: CreateCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: b"\xf8" * size)
    cluster = create_cluster()
    assert cluster.identity().startswith("-")
    cluster.kill()


def test_three_brokers_go_on_without_the_leader_of_a_partition(
    create_cluster: CreateCluster, unique_name: str
) -> None:
    cluster = create_cluster(brokers=3)
    cluster.create_topic(unique_name, 1)
    leader = cluster.leaders(unique_name)[0]
    assert produce(cluster, unique_name, 0) == 0
    cluster.brokers[leader - 1].kill()
    assert produce(cluster, unique_name, 0) == 1
    wait_until(lambda: cluster.leaders(unique_name)[0] not in {leader, -1}, 30, "another leader")
    cluster.kill()


def test_topic_has_its_own_settings(apache_kafka: ApacheKafka, unique_name: str) -> None:
    apache_kafka.create_topic(unique_name, 1, {"max.message.bytes": "10"})
    with pytest.raises(AssertionError):
        produce(apache_kafka, unique_name, 0)


def test_what_is_missing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jars = kafka_jars({"HOME": str(tmp_path)})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError) as told:
        jars.fetch(print)
    assert str(told.value) == (
        "Apache Kafka needs Java 17 or newer (Debian: openjdk-17-jre-headless) and Maven (Debian: "
        "maven); or set KAFKA_BROKERS to a cluster of your own"
    )


def test_jars_that_do_not_exist_are_told_with_mavens_reason(tmp_path: Path) -> None:
    pom = tmp_path / "broken" / "pom.xml"
    pom.parent.mkdir()
    pom.write_text("<project>")
    jars = Jars(name="Nothing", pom=pom, cache=tmp_path / "cache", instead="do without")
    with pytest.raises(StartError, match=r"Maven could not fetch Nothing: .*broken.pom\.xml"):
        jars.fetch(print)
    assert [path.name for path in jars.cache.iterdir()] == ["lock"]
