"""relayd's settings, read once. A wrong one stops the start and names its variable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from relayd.dead_letter import read_dead_letter
from servicedesk.environment import Address, Environment, SettingError
from servicedesk.logs import LEVEL_NAMES
from servicedesk.mending.letter import LetterTopic

Compression = Literal["lz4", "zstd"]

# librdkafka looks for timed-out messages once a second.
SCAN_SECONDS = 1.0
# A row may wait for room in the producer's queue for this part of the delivery time-out.
WAITING_SHARE = 0.25
DAY_SECONDS = 86_400.0
BROKERS = "localhost:9092"
DATABASE_EXAMPLE = "postgresql://user:password@localhost:5432/servicedesk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything relayd can be told; names ending in _seconds are seconds."""

    log_level: str
    metrics_address: Address
    database_url: str = field(repr=False)
    shutdown_seconds: float
    kafka_brokers: str
    kafka_topic: str
    kafka_dlq_topic: str
    kafka_client_id: str
    compression: Compression
    message_max_bytes: int
    delivery_seconds: float
    linger_seconds: float
    topic_partitions: int
    topic_replication: int | None
    lease_seconds: float
    batch_rows: int
    max_in_flight: int
    max_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float
    poll_min_seconds: float
    poll_max_seconds: float
    dead_retention_seconds: float
    history_retention_seconds: float

    @property
    def send_seconds(self) -> float:
        """The longest that a row may be under way: the wait for room, the delivery time-out, and
        librdkafka's looking for messages that are past it."""
        return self.delivery_seconds * (1 + WAITING_SHARE) + SCAN_SECONDS

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> "Config":
        """Raises SettingError."""
        read = Environment(values)
        config = cls(
            log_level=read.choice("LOG_LEVEL", "info", LEVEL_NAMES),
            metrics_address=read.address("METRICS_ADDR", "127.0.0.1:9090"),
            database_url=database_url(read),
            shutdown_seconds=read.seconds("SHUTDOWN_TIMEOUT", 10, minimum=0.1, maximum=3600),
            kafka_brokers=read.kafka_brokers("KAFKA_BROKERS") or BROKERS,
            kafka_topic=read.kafka_name("KAFKA_TOPIC", "tickets.events"),
            kafka_dlq_topic=read.kafka_name("KAFKA_DLQ_TOPIC", "tickets.events.dlq"),
            kafka_client_id=read.text("KAFKA_CLIENT_ID", "relayd"),
            compression=read.choice("RELAYD_COMPRESSION", "lz4", ("lz4", "zstd")),
            message_max_bytes=read.integer(
                "RELAYD_MESSAGE_MAX_BYTES", 1_000_000, minimum=1_000, maximum=1_000_000_000
            ),
            delivery_seconds=read.seconds("RELAYD_DELIVERY_TIMEOUT", 5, minimum=0.1, maximum=300),
            linger_seconds=read.seconds("RELAYD_LINGER", 0.005, maximum=1),
            topic_partitions=read.integer("RELAYD_TOPIC_PARTITIONS", 12, minimum=1, maximum=10_000),
            topic_replication=_replication(read),
            lease_seconds=read.seconds("RELAYD_LEASE", 15, minimum=3, maximum=600),
            batch_rows=read.integer("RELAYD_BATCH_SIZE", 2_048, minimum=1, maximum=100_000),
            max_in_flight=read.integer("RELAYD_MAX_IN_FLIGHT", 4_096, minimum=1, maximum=1_000_000),
            max_attempts=read.integer("RELAYD_MAX_ATTEMPTS", 10, minimum=1, maximum=1_000),
            retry_base_seconds=read.seconds("RELAYD_RETRY_BASE", 0.5),
            retry_cap_seconds=read.seconds("RELAYD_RETRY_CAP", 60),
            poll_min_seconds=read.seconds("RELAYD_POLL_MIN", 0.02),
            poll_max_seconds=read.seconds("RELAYD_POLL_MAX", 1),
            dead_retention_seconds=read.seconds(
                "RELAYD_DEAD_RETENTION", 30 * DAY_SECONDS, minimum=60
            ),
            history_retention_seconds=read.seconds(
                "RELAYD_HISTORY_RETENTION", 90 * DAY_SECONDS, minimum=60
            ),
        )
        _check_together(config)
        return config


def database_url(read: Environment) -> str:
    """The one setting that the mending commands need too. Raises SettingError."""
    accepts = f"a PostgreSQL URL such as {DATABASE_EXAMPLE}"
    read.url("DATABASE_URL", ("postgresql", "postgres"), example=DATABASE_EXAMPLE)
    return read.required("DATABASE_URL", accepts)


def letter_topic(read: Environment) -> LetterTopic:
    """Where the dead letters are, for the mending commands. Raises SettingError."""
    return LetterTopic(
        brokers=read.kafka_brokers("KAFKA_BROKERS") or BROKERS,
        client_id=read.text("KAFKA_CLIENT_ID", "relayd"),
        topic=read.kafka_name("KAFKA_DLQ_TOPIC", "tickets.events.dlq"),
        read=read_dead_letter,
    )


def _replication(read: Environment) -> int | None:
    """None leaves the number of replicas to the cluster's own default."""
    found = read.integer("RELAYD_TOPIC_REPLICATION", 0, minimum=1, maximum=100)
    return found or None


def _check_together(config: Config) -> None:
    if config.kafka_dlq_topic == config.kafka_topic:
        raise SettingError(
            "KAFKA_DLQ_TOPIC", f"is {config.kafka_dlq_topic!r}, which is KAFKA_TOPIC; name another"
        )
    # A row that is still under way when the lease ends could be sent by the next owner as well.
    if config.send_seconds > config.lease_seconds / 2:
        most = max(0.0, (config.lease_seconds / 2 - SCAN_SECONDS) / (1 + WAITING_SHARE))
        raise SettingError(
            "RELAYD_DELIVERY_TIMEOUT",
            f"is {config.delivery_seconds:g}s; with RELAYD_LEASE at {config.lease_seconds:g}s it "
            f"takes at most {most:.3g}s, so that a send ends within half of the lease",
        )
    if config.linger_seconds > config.delivery_seconds / 2:
        raise SettingError(
            "RELAYD_LINGER",
            f"is {config.linger_seconds:g}s; it takes at most half of RELAYD_DELIVERY_TIMEOUT, "
            f"which is {config.delivery_seconds:g}s",
        )
    for low, high, least, most in (
        (
            "RELAYD_RETRY_BASE",
            "RELAYD_RETRY_CAP",
            config.retry_base_seconds,
            config.retry_cap_seconds,
        ),
        ("RELAYD_POLL_MIN", "RELAYD_POLL_MAX", config.poll_min_seconds, config.poll_max_seconds),
    ):
        if least > most:
            raise SettingError(low, f"is {least:g}s; it takes at most {high}, which is {most:g}s")
