"""The consumer on a real cluster: nothing is skipped, and offsets follow what is taken in."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry

from deploy.local.kafka import Kafka
from notifyd.consumer import TopicConsumer
from notifyd.consumer_settings import ConsumerSettings
from notifyd.metrics import IngestMetrics
from notifyd.record import Record
from servicedesk.event import Event
from tests.notifyd.samples import Lines, event, log_to, produce

TakeIn = Callable[[Sequence[Record]], Coroutine[Any, Any, None]]


# A rebalance of the mock cluster takes a second less than the session.
QUICK_MS = 1500


class Member:
    """A consumer of a group on the running loop, with what it took in."""

    def __init__(
        self, brokers: str, name: str, take_in: TakeIn | None = None, **changes: Any
    ) -> None:
        self.records: list[Record] = []
        self.batches: list[int] = []
        self.lines = Lines()
        self.registry = CollectorRegistry()
        self.stop = asyncio.Event()
        self._group = brokers, name
        self._take_in = take_in
        settings: dict[str, Any] = {
            "brokers": brokers,
            "topic": name,
            "group_id": name,
            "client_id": "notifyd",
            "fetch_wait_ms": 10,
            "session_ms": 6000,
            "batch_records": 100,
            "finish_seconds": 2.0,
        }
        self.consumer = TopicConsumer(
            settings=ConsumerSettings(**(settings | changes)),
            prepare=list,
            take_in=self._keep,
            metrics=IngestMetrics(self.registry),
            log=log_to(self.lines),
        )
        self.task = asyncio.create_task(self.consumer.run(self.stop))

    async def _keep(self, records: Sequence[Record]) -> None:
        if self._take_in is not None:
            await self._take_in(records)
        self.records += records
        self.batches.append(len(records))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + 20
        while not condition():
            assert not self.task.done(), self.task
            assert asyncio.get_running_loop().time() < deadline, f"no {what}"
            await asyncio.sleep(0.01)

    async def until_committed(self, records: int) -> None:
        async with asyncio.timeout(20):
            while await asyncio.to_thread(committed, *self._group) < records:
                assert not self.task.done(), self.task

    async def leave(self) -> None:
        self.stop.set()
        await self.task

    def has_partitions(self) -> bool:
        return any(each["partitions"] for each in self.lines.events("partitions_assigned"))

    def has_lost_partitions(self) -> bool:
        """By a rebalance, or because it was not heard of for the length of its session."""
        events = self.lines.events
        return bool(events("partitions_revoked") or events("partitions_lost"))

    def values(self) -> list[bytes]:
        return [record.value or b"" for record in self.records]


def committed(brokers: str, name: str) -> int:
    """The sum of the group's offsets over the partitions of the topic."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": name})
    try:
        partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
        asked = [TopicPartition(name, each) for each in partitions]
        found = consumer.committed(asked, timeout=10)
    finally:
        consumer.close()
    return sum(max(0, each.offset) for each in found)


def numbered(count: int) -> list[Event | bytes]:
    return [b"%d" % number for number in range(count)]


def test_batches_arrive_in_order_and_their_offsets_are_committed(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(250))

    async def scenario() -> Member:
        member = Member(kafka_brokers, unique_name)
        await member.until(lambda: len(member.records) == 250, "250 records")
        assert member.consumer.readiness() == "ok"
        await member.leave()
        return member

    member = asyncio.run(scenario())
    # One key, so one partition and one order.
    assert member.values() == [b"%d" % number for number in range(250)]
    assert max(member.batches) <= 100
    assert committed(kafka_brokers, unique_name) == 250
    assert member.lines.events("offset_commit_failed") == []


def test_next_member_goes_on_where_the_last_one_stopped(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(10))

    async def scenario() -> list[Record]:
        first = Member(kafka_brokers, unique_name, session_ms=QUICK_MS)
        await first.until(lambda: len(first.records) == 10, "10 records")
        await first.leave()
        assert await asyncio.to_thread(committed, kafka_brokers, unique_name) == 10
        produce(kafka_brokers, unique_name, [b"after"])
        second = Member(kafka_brokers, unique_name, session_ms=QUICK_MS)
        await second.until(lambda: second.records, "record")
        await second.leave()
        return second.records

    assert [record.value for record in asyncio.run(scenario())] == [b"after"]


def test_batch_that_waits_pauses_the_partitions_and_loses_nothing(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(300))
    more: list[Event | bytes] = [event(uuid4()) for _ in range(20)]

    async def scenario() -> Member:
        database = asyncio.Event()

        async def take_in(records: Sequence[Record]) -> None:
            await database.wait()

        member = Member(kafka_brokers, unique_name, take_in)
        await member.until(lambda: member.lines.events("partitions_paused"), "pause")
        # Other partitions, while everything is paused.
        await asyncio.to_thread(produce, kafka_brokers, unique_name, more)
        assert member.records == []
        assert await asyncio.to_thread(committed, kafka_brokers, unique_name) == 0
        database.set()
        await member.until(lambda: len(member.records) >= 320, "all records")
        await member.leave()
        return member

    member = asyncio.run(scenario())
    assert len(member.records) == 320
    own = [value for value in member.values() if value.isdigit()]
    assert own == [b"%d" % number for number in range(300)]
    assert committed(kafka_brokers, unique_name) == 320


def test_stop_leaves_a_batch_that_cannot_be_taken_in_for_later(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(10))

    async def scenario() -> None:
        async def take_in(records: Sequence[Record]) -> None:
            await asyncio.Event().wait()

        member = Member(kafka_brokers, unique_name, take_in, finish_seconds=0.1)
        await member.until(lambda: member.lines.events("partitions_paused"), "pause")
        async with asyncio.timeout(10):
            await member.leave()

    asyncio.run(scenario())
    assert committed(kafka_brokers, unique_name) == 0


def test_fault_of_the_program_ends_the_run_without_a_commit(
    kafka_brokers: str, unique_name: str
) -> None:
    produce(kafka_brokers, unique_name, numbered(1))

    async def scenario() -> None:
        async def take_in(records: Sequence[Record]) -> None:
            raise LookupError("a fault")

        await Member(kafka_brokers, unique_name, take_in).task

    with pytest.raises(LookupError, match="a fault"):
        asyncio.run(scenario())
    assert committed(kafka_brokers, unique_name) == 0


def test_rebalance_in_the_middle_loses_nothing_and_keeps_order(
    shared_kafka: Kafka, unique_name: str
) -> None:
    brokers = shared_kafka.bootstrap_servers
    shared_kafka.create_topic(unique_name, 6)
    tickets = [uuid4() for _ in range(40)]
    turns = [ticket_id for ticket_id in tickets for _ in range(25)]
    random.Random(7).shuffle(turns)
    sequences = dict.fromkeys(tickets, 0)
    events: list[Event | bytes] = []
    for ticket_id in turns:
        sequences[ticket_id] += 1
        events.append(event(ticket_id, sequences[ticket_id]))
    arrivals: list[Record] = []

    async def take_in(records: Sequence[Record]) -> None:
        # As a database would: slow enough for the group to change in the middle.
        await asyncio.sleep(0.02)
        arrivals.extend(records)

    async def scenario() -> list[Member]:
        settings = {"batch_records": 20, "session_ms": QUICK_MS}
        first = Member(brokers, unique_name, take_in, **settings)
        await first.until(lambda: first.lines.events("partitions_assigned"), "partitions")
        await asyncio.to_thread(produce, brokers, unique_name, events[:500])
        await first.until(lambda: len(first.records) > 100, "first records")
        second = Member(brokers, unique_name, take_in, **settings)
        await asyncio.to_thread(produce, brokers, unique_name, events[500:750])
        await second.until(second.has_partitions, "partitions at the second")
        await asyncio.to_thread(produce, brokers, unique_name, events[750:])
        await second.until(lambda: len(second.records) > 20, "records at the second")
        await first.leave()
        await second.until(lambda: distinct(arrivals) == 1000, "all records")
        # What the first could not commit in the middle of the rebalance is read again.
        await second.until_committed(1000)
        await second.leave()
        return [first, second]

    first, second = asyncio.run(scenario())
    assert first.lines.events("partitions_revoked")
    assert second.lines.events("partitions_assigned")
    seen: dict[int, int] = {}
    for record in arrivals:
        # What comes twice is known already; what is new is the next of its partition.
        place = seen.get(record.partition, -1)
        assert record.offset <= place + 1
        seen[record.partition] = max(place, record.offset)
    assert committed(brokers, unique_name) == 1000


def distinct(records: Sequence[Record]) -> int:
    return len({(record.partition, record.offset) for record in records})


def test_partition_that_leaves_while_paused_is_read_when_it_comes_back(
    shared_kafka: Kafka, unique_name: str
) -> None:
    brokers = shared_kafka.bootstrap_servers
    shared_kafka.create_topic(unique_name, 6)
    early: list[Event | bytes] = [event(uuid4()) for _ in range(60)]
    late: list[Event | bytes] = [event(uuid4()) for _ in range(60)]
    produce(brokers, unique_name, early)

    async def scenario() -> list[Record]:
        database = asyncio.Event()

        async def take_in(records: Sequence[Record]) -> None:
            await database.wait()

        first = Member(brokers, unique_name, take_in, session_ms=QUICK_MS)
        await first.until(lambda: first.lines.events("partitions_paused"), "pause")
        second = Member(brokers, unique_name, session_ms=QUICK_MS)
        await first.until(first.has_lost_partitions, "revocation")
        database.set()
        await first.until(lambda: first.lines.events("partitions_resumed"), "end of the pause")
        await second.leave()
        await asyncio.to_thread(produce, brokers, unique_name, late)
        both = first.records, second.records
        await first.until(lambda: distinct([*both[0], *both[1]]) == 120, "all records")
        await first.leave()
        return second.records

    assert len(asyncio.run(scenario())) < 120
    assert committed(brokers, unique_name) == 120


def test_kafka_away_is_told_and_waited_for(own_kafka: Kafka, unique_name: str) -> None:
    brokers = own_kafka.bootstrap_servers
    produce(brokers, unique_name, numbered(5))

    async def scenario() -> Member:
        member = Member(brokers, unique_name)
        await member.until(lambda: len(member.records) == 5, "records")
        await member.until(lambda: member.consumer.readiness() == "ok", "readiness")
        own_kafka.down()
        await member.until(lambda: member.consumer.readiness().startswith("away"), "bad news")
        own_kafka.up()
        await member.until(lambda: member.consumer.readiness() == "ok", "good news")
        await asyncio.to_thread(produce, brokers, unique_name, [b"after"])
        await member.until(lambda: b"after" in member.values(), "record after the outage")
        await member.leave()
        return member

    member = asyncio.run(scenario())
    assert len(member.lines.events("kafka_away")) == 1


def test_stop_is_in_time_while_kafka_is_away(own_kafka: Kafka, unique_name: str) -> None:
    brokers = own_kafka.bootstrap_servers
    produce(brokers, unique_name, numbered(5))

    async def scenario() -> float:
        member = Member(brokers, unique_name, finish_seconds=0.1)
        await member.until(lambda: len(member.records) == 5, "records")
        own_kafka.down()
        await member.until(lambda: member.consumer.readiness().startswith("away"), "bad news")
        started = asyncio.get_running_loop().time()
        await member.leave()
        return asyncio.get_running_loop().time() - started

    assert asyncio.run(scenario()) < 8


def test_topic_that_appears_later_is_read(own_kafka: Kafka, unique_name: str) -> None:
    brokers = own_kafka.bootstrap_servers

    async def scenario() -> Member:
        member = Member(brokers, unique_name)
        await member.until(lambda: member.consumer.readiness() == "ok", "readiness")
        await asyncio.to_thread(produce, brokers, unique_name, [b"first"])
        await member.until(lambda: member.records, "record")
        await member.leave()
        return member

    assert asyncio.run(scenario()).values() == [b"first"]
