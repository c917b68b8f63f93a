"""The lag is the group's: what the brokers have and nobody has taken in, partition by partition."""

import asyncio
from collections.abc import Sequence
from math import isnan

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.local.apache import ApacheKafka
from deploy.local.kafka import Kafka
from notifyd.record import Record
from servicedesk.event import Event
from tests.notifyd.samples import produce
from tests.notifyd.test_consumer import QUICK_MS, Member, numbered

PARTITIONS = 4
UNKNOWN = [True] * PARTITIONS


def lags(member: Member) -> dict[str, float]:
    """By partition, of those that the member shows."""
    return {
        sample.labels["partition"]: sample.value
        for metric in member.registry.collect()
        for sample in metric.samples
        if sample.name == "notifyd_consumer_lag"
    }


def total(member: Member) -> float | None:
    """None unless every partition of the topic is known to the member."""
    found = lags(member).values()
    return sum(found) if len(found) == PARTITIONS and not any(map(isnan, found)) else None


async def hang(records: Sequence[Record]) -> None:
    await asyncio.Event().wait()


def delete_all(brokers: str, topic: str) -> None:
    """Every record of the topic, as when their age removes them."""
    places = [TopicPartition(topic, each, OFFSET_END) for each in range(PARTITIONS)]
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_records(places).values():
        future.result(10)


def test_partitions_without_new_records_have_no_lag_after_a_restart(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(20))

    async def scenario() -> dict[str, float]:
        first = Member(kafka_brokers, unique_name, session_ms=QUICK_MS)
        await first.until(lambda: len(first.records) == 20, "20 records")
        await first.until(lambda: total(first) == 0, "lag of nothing")
        await first.leave()
        second = Member(kafka_brokers, unique_name, session_ms=QUICK_MS)
        await second.until(lambda: total(second) is not None, "known lag")
        found = lags(second)
        await second.leave()
        assert second.records == []
        return found

    assert set(asyncio.run(scenario()).values()) == {0.0}


def test_records_that_wait_for_the_database_are_lag_also_when_they_come_later(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(50))
    more: list[Event | bytes] = [b"more"] * 30

    async def scenario() -> None:
        member = Member(kafka_brokers, unique_name, hang, finish_seconds=0.1)
        await member.until(lambda: total(member) == 50, "lag of 50")
        await member.until(lambda: member.lines.events("partitions_paused"), "pause")
        await asyncio.to_thread(produce, kafka_brokers, unique_name, more)
        await member.until(lambda: total(member) == 80, "lag of 80")
        await member.leave()

    asyncio.run(scenario())


def test_lag_goes_with_its_partition_to_the_new_owner(own_kafka: Kafka, unique_name: str) -> None:
    brokers = own_kafka.bootstrap_servers
    produce(brokers, unique_name, numbered(40))

    async def scenario() -> None:
        first = Member(brokers, unique_name, session_ms=QUICK_MS)
        await first.until(lambda: len(first.records) == 40, "records")
        second = Member(brokers, unique_name, session_ms=QUICK_MS)
        await second.until(lambda: lags(second), "partitions")
        await first.until(lambda: len(lags(first)) == PARTITIONS - len(lags(second)), "the rest")
        await first.until(
            lambda: sum([*lags(first).values(), *lags(second).values()]) == 0, "lag of nothing"
        )
        assert not lags(first).keys() & lags(second).keys()
        assert second.records == []
        await second.leave()
        await first.leave()

    asyncio.run(scenario())


def test_lag_is_not_a_number_while_the_brokers_are_away(own_kafka: Kafka, unique_name: str) -> None:
    brokers = own_kafka.bootstrap_servers
    produce(brokers, unique_name, numbered(5))

    async def scenario() -> None:
        # Long enough to keep its partitions for a while.
        member = Member(brokers, unique_name, session_ms=5000)
        await member.until(lambda: total(member) == 0, "lag of nothing")
        own_kafka.down()
        await member.until(
            lambda: list(map(isnan, lags(member).values())) == UNKNOWN, "unknown lag"
        )
        own_kafka.up()
        await member.until(lambda: total(member) == 0, "lag of nothing again")
        await member.leave()

    asyncio.run(scenario())


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_lag_of_apache_kafka_counts_from_the_groups_offset_or_the_first_record_there_is(
    apache_kafka: ApacheKafka, unique_name: str
) -> None:
    brokers = apache_kafka.bootstrap_servers
    apache_kafka.create_topic(unique_name, PARTITIONS)
    produce(brokers, unique_name, numbered(20))

    async def scenario() -> None:
        first = Member(brokers, unique_name, session_ms=6000)
        await first.until(lambda: total(first) == 0 and len(first.records) == 20, "lag of nothing")
        await first.leave()
        await asyncio.to_thread(produce, brokers, unique_name, numbered(7))
        second = Member(brokers, unique_name, hang, session_ms=6000, finish_seconds=0.1)
        await second.until(lambda: total(second) == 7, "lag of 7")
        await second.leave()
        # As when its age has removed what nobody took in.
        await asyncio.to_thread(delete_all, brokers, unique_name)
        third = Member(brokers, unique_name, session_ms=6000)
        await third.until(lambda: total(third) == 0, "lag of nothing there is")
        assert third.records == []
        await third.leave()

    asyncio.run(scenario())
