"""Where a key goes is worked out as Kafka's clients work it out."""

import asyncio
import uuid

import pytest
from confluent_kafka import Message, Producer

from deploy.local.kafka import Kafka
from relayd.partitions import murmur2, partition_of
from relayd.relay import prepare
from tests.relayd.publishing import Bench, run


# Source: Apache Kafka, UtilsTest.testMurmur2, which has them as signed numbers.
@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_hash_is_that_of_the_java_client(text: str, signed: int) -> None:
    assert murmur2(text.encode()) == signed & 0xFFFFFFFF


def test_key_goes_where_librdkafka_sends_it(kafka_brokers: str, unique_name: str) -> None:
    producer = Producer({"bootstrap.servers": kafka_brokers, "partitioner": "murmur2_random"})
    count = len(producer.list_topics(unique_name, timeout=10).topics[unique_name].partitions)
    keys = [str(uuid.uuid4()) for _ in range(200)] + ["", "ключ", "🎫", "مفتاح"]
    found: dict[str, int | None] = {}

    def delivered(_error: object, message: Message) -> None:
        found[(message.key() or b"").decode()] = message.partition()

    for key in keys:
        producer.produce(unique_name, b"", key.encode(), on_delivery=delivered)
    assert producer.flush(10) == 0
    assert count > 1
    assert found == {key: partition_of(key, count) for key in keys}


def test_publisher_names_the_partition_once_it_knows_how_many_there_are(
    kafka_brokers: str, unique_name: str
) -> None:
    async def scenario(bench: Bench) -> None:
        count = bench.publisher.parts()
        assert count > 1
        keys = [str(uuid.uuid4()) for _ in range(50)]
        assert {bench.publisher.part(key) for key in keys} <= {
            f"partition {number}" for number in range(count)
        }
        for key in keys:
            assert bench.publisher.part(key) == f"partition {partition_of(key, count)}"

    run(scenario, kafka_brokers, unique_name)


def test_partitions_are_counted_as_soon_as_kafka_answers(
    own_kafka: Kafka, unique_name: str
) -> None:
    """Not only with the next look, minutes later, though nothing else failed at the start."""
    own_kafka.down()

    async def scenario(bench: Bench) -> None:
        assert (bench.publisher.unprepared, bench.publisher.parts()) == ("", 0)
        own_kafka.up()
        preparing = asyncio.create_task(prepare(bench.publisher))
        async with asyncio.timeout(20):
            while not bench.publisher.has_counted:
                assert not preparing.done()
                await asyncio.sleep(0.01)
        preparing.cancel()
        assert bench.publisher.parts() > 1

    run(scenario, own_kafka.bootstrap_servers, unique_name, probe_seconds=0.5)
