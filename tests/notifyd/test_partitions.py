"""What a batch of an earlier assignment leaves behind: nothing to be committed, or counted."""

import asyncio
from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry

from deploy.local.kafka import Kafka
from notifyd.metrics import IngestMetrics
from notifyd.partitions import Partitions
from notifyd.record import Record
from servicedesk.event import Event
from tests.notifyd.samples import Lines, event, log_to, produce, record
from tests.notifyd.test_consumer import QUICK_MS, Member, committed, distinct
from tests.support.processes import wait_until


class Owner:
    """Partition 0 of a topic, and a consumer whose rebalances are told by the test."""

    def __init__(self, brokers: str, name: str) -> None:
        self.name = name
        self.brokers = brokers
        self.registry = CollectorRegistry()
        self.partitions = Partitions(
            topic=name, metrics=IngestMetrics(self.registry), log=log_to(Lines())
        )
        self.consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": name,
                "enable.auto.commit": False,
                "on_commit": self.partitions.on_commit,
            }
        )
        self._places = [TopicPartition(name, 0)]

    def gets(self) -> None:
        self.partitions.on_assign(self.consumer, self._places)

    def loses(self) -> None:
        self.partitions.on_revoke(self.consumer, self._places)

    def reads(self, *offsets: int) -> list[Record]:
        """As the consumer makes records: with the assignment that they came in."""
        assignment = self.partitions.owned[0]
        return [
            record(b"", topic=self.name, offset=offset)._replace(assignment=assignment)
            for offset in offsets
        ]

    def commits(self) -> int:
        """What the group's offset is when nothing is left to commit."""
        self.partitions.commit(self.consumer)

        def is_answered() -> bool:
            self.consumer.poll(0.05)
            return self.partitions.is_committed

        wait_until(is_answered, 20, "answer to a commit")
        return committed(self.brokers, self.name)

    def lag(self) -> float | None:
        self.partitions.measure_lag(self.consumer, reachable=True)
        return self.registry.get_sample_value("notifyd_consumer_lag", {"partition": "0"})


@pytest.fixture
def owner(shared_kafka: Kafka, unique_name: str) -> Iterator[Owner]:
    shared_kafka.create_topic(unique_name, 1)
    made = Owner(shared_kafka.bootstrap_servers, unique_name)
    produce(made.brokers, unique_name, [b"%d" % number for number in range(30)])
    yield made
    made.consumer.close()


def test_batch_that_ends_after_its_partition_left_is_not_committed_when_it_returns(
    owner: Owner,
) -> None:
    owner.gets()
    batch = owner.reads(0, 1, 2)
    owner.loses()
    owner.partitions.taken_in(batch)
    # Its next owner came further meanwhile.
    owner.consumer.commit(offsets=[TopicPartition(owner.name, 0, 20)], asynchronous=False)
    owner.gets()
    assert owner.commits() == 20
    wait_until(lambda: owner.lag() == 10, 20, "lag of what is left")


def test_batch_that_ends_after_its_partition_left_and_returned_sets_nothing_back(
    owner: Owner,
) -> None:
    owner.gets()
    batch = owner.reads(0, 1, 2)
    owner.loses()
    owner.gets()
    owner.partitions.taken_in(owner.reads(20, 21))
    assert owner.commits() == 22
    owner.partitions.taken_in(batch)
    assert owner.commits() == 22
    wait_until(lambda: owner.lag() == 8, 20, "lag of what is left")


def test_topic_that_is_made_anew_counts_from_its_start(owner: Owner) -> None:
    owner.gets()
    owner.partitions.taken_in(owner.reads(20, 21))
    assert owner.commits() == 22
    owner.partitions.taken_in(owner.reads(0, 1))
    assert owner.commits() == 2


def test_partition_that_comes_back_is_not_committed_backwards(
    shared_kafka: Kafka, unique_name: str
) -> None:
    """Batches wait for the database while a second member takes half of the partitions, comes
    further with them, and hands them back."""
    brokers = shared_kafka.bootstrap_servers
    shared_kafka.create_topic(unique_name, 2)
    events: list[Event | bytes] = [event(uuid4()) for _ in range(120)]
    produce(brokers, unique_name, events[:60])

    async def scenario() -> None:
        database = asyncio.Event()

        async def take_in(records: Sequence[Record]) -> None:
            await database.wait()

        first = Member(brokers, unique_name, take_in, session_ms=QUICK_MS)
        await first.until(lambda: first.lines.events("partitions_paused"), "pause")
        second = Member(brokers, unique_name, session_ms=QUICK_MS)
        await first.until(first.has_lost_partitions, "revocation")
        database.set()
        await second.until(lambda: second.records, "records at the second")
        await asyncio.to_thread(produce, brokers, unique_name, events[60:])
        await second.until(
            lambda: distinct([*first.records, *second.records]) == 120, "all records"
        )
        await second.leave()
        await first.until(lambda: _owned(first) == 2, "return")
        # What a member that was held up could not commit is read again.
        await first.until_committed(120)
        await first.leave()

    asyncio.run(scenario())
    assert committed(brokers, unique_name) == 120


def _owned(member: Member) -> float | None:
    return member.registry.get_sample_value("notifyd_assigned_partitions")
