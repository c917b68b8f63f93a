"""What notifyd tells librdkafka of how to read the topic."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """What of it notifyd's operator decides. `finish_seconds`: how long a batch may take after a
    stop before it is left for later."""

    brokers: str
    topic: str
    group_id: str
    client_id: str
    fetch_wait_ms: int
    session_ms: int
    batch_records: int
    finish_seconds: float

    def librdkafka(self) -> dict[str, str | int | bool]:
        """Source: librdkafka, CONFIGURATION.md."""
        return {
            "bootstrap.servers": self.brokers,
            "group.id": self.group_id,
            "client.id": self.client_id,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": self.fetch_wait_ms,
            "session.timeout.ms": self.session_ms,
            "heartbeat.interval.ms": max(100, self.session_ms // 4),
            # Bounds what waits in memory while the database is away.
            "queued.max.messages.kbytes": 16 * 1024,
            # A topic that appears later, or grows, is found within this time.
            "topic.metadata.refresh.interval.ms": 5000,
            # A connection that has fallen silent is given up as soon as the group would give
            # this member up; librdkafka by itself waits for a minute.
            "socket.timeout.ms": max(self.session_ms, self.fetch_wait_ms + 1000),
            "reconnect.backoff.max.ms": 2000,
        }
