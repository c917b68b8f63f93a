"""A member of a consumer group that joins and leaves, again and again: the group is never at rest.

It takes nothing in and commits nothing, so what it was given has to be read again by the others.
"""

import struct
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

POLL_SECONDS = 0.05
JOIN_POLLS = 100
# Source: librdkafka, rd_kafka_consumer_group_metadata_write: a mark, then the generation.
GENERATION = struct.Struct("=7si")


class RestlessMember:
    """Runs in a thread of its own inside a `with`. `joins` counts how often it was in, `generation`
    is the group's newest that it saw: how often the group has been balanced."""

    def __init__(self, environment: Mapping[str, str], session_ms: int) -> None:
        self.joins = 0
        self.generation = 0
        self._topic = environment["KAFKA_TOPIC"]
        self._settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": environment["KAFKA_BROKERS"],
            "group.id": environment["KAFKA_GROUP_ID"],
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": session_ms // 4,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._leaving.is_set():
            self._join_and_leave()

    def _join_and_leave(self) -> None:
        given: list[TopicPartition] = []
        member = Consumer(self._settings)
        try:
            member.subscribe([self._topic], on_assign=lambda _, parts: given.extend(parts))
            for _ in range(JOIN_POLLS):
                if given or self._leaving.is_set():
                    break
                member.poll(POLL_SECONDS)
            _, generation = GENERATION.unpack_from(member.consumer_group_metadata())
            self.generation = max(self.generation, generation)
            self.joins += bool(given)
        finally:
            member.close()
