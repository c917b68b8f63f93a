"""The local stack's settings, read once. What the user sets wins; a service the user brings is
used and not started."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

from servicedesk.environment import Address, Environment, SettingError

DAEMONS = ("ticketd", "relayd", "notifyd")
METRICS_DEFAULTS = {"ticketd": 9089, "relayd": 9090, "notifyd": 9091}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`metrics` is by daemon. `given` is the environment as it came, for the daemons to read."""

    directory: Path
    http_address: Address
    metrics: Mapping[str, Address]
    database_url: str | None = field(repr=False)
    kafka_brokers: str | None
    kafka: Literal["mock", "apache"]
    kafka_nodes: int
    kafka_topic: str
    kafka_dlq_topic: str
    kafka_group_id: str
    topic_partitions: int
    redis_url: str | None = field(repr=False)
    s3_endpoint: str | None
    s3_bucket: str
    channels: str
    webhook_url: str | None = field(repr=False)
    webhook_secret: str | None = field(repr=False)
    cursor_secret: str | None = field(repr=False)
    shutdown_seconds: float
    given: Mapping[str, str] = field(repr=False)

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> "Config":
        """Raises SettingError. What only a daemon reads is left for the daemon to judge."""
        read = Environment(values)
        if read.optional("METRICS_ADDR"):
            variables = ", ".join(f"{daemon.upper()}_METRICS_ADDR" for daemon in DAEMONS)
            raise SettingError(
                "METRICS_ADDR", f"is one address and the stack runs three daemons; set {variables}"
            )
        config = cls(
            directory=Path(read.text("LOCAL_DIR", ".local")).absolute(),
            http_address=read.address("HTTP_ADDR", "127.0.0.1:8080"),
            metrics={
                daemon: read.address(f"{daemon.upper()}_METRICS_ADDR", f"127.0.0.1:{port}")
                for daemon, port in METRICS_DEFAULTS.items()
            },
            database_url=read.url(
                "DATABASE_URL",
                ("postgresql", "postgres"),
                example="postgresql://user:password@localhost:5432/servicedesk",
            ),
            kafka_brokers=read.kafka_brokers("KAFKA_BROKERS"),
            kafka=read.choice("KAFKA", "mock", ("mock", "apache")),
            kafka_nodes=int(read.choice("KAFKA_NODES", "1", ("1", "3"))),
            kafka_topic=read.kafka_name("KAFKA_TOPIC", "tickets.events"),
            kafka_dlq_topic=read.kafka_name("KAFKA_DLQ_TOPIC", "tickets.events.dlq"),
            kafka_group_id=read.kafka_name("KAFKA_GROUP_ID", "notifyd"),
            topic_partitions=read.integer("RELAYD_TOPIC_PARTITIONS", 12, minimum=1, maximum=10_000),
            redis_url=read.url(
                "REDIS_URL", ("redis", "rediss"), example="redis://:password@localhost:6379/0"
            ),
            s3_endpoint=read.url(
                "S3_ENDPOINT", ("http", "https"), example="https://s3.example.org"
            ),
            s3_bucket=read.text("S3_BUCKET", "servicedesk"),
            channels=read.text("NOTIFYD_CHANNELS", "log,webhook"),
            webhook_url=read.optional("NOTIFYD_WEBHOOK_URL"),
            webhook_secret=read.optional("NOTIFYD_WEBHOOK_SECRET"),
            cursor_secret=read.optional("TICKETD_CURSOR_SECRET"),
            shutdown_seconds=read.seconds("SHUTDOWN_TIMEOUT", 10.0, minimum=0.1, maximum=3600.0),
            given=values,
        )
        config._require_ports_of_their_own()
        config._require_receiver(read.text("APP_ENV", "dev"))
        return config

    def addresses(self) -> list[tuple[str, Address]]:
        """The variables that move a conventional port, each with its address."""
        named = [
            (f"{name.upper()}_METRICS_ADDR", address) for name, address in self.metrics.items()
        ]
        return [("HTTP_ADDR", self.http_address), *named]

    def _require_ports_of_their_own(self) -> None:
        for (first, one), (second, other) in combinations(self.addresses(), 2):
            if one.overlaps(other):
                raise SettingError(
                    first,
                    f"is {one}, and {second} is {other}; give one of them another port "
                    "(what is not set has the default of .env.example)",
                )

    def _require_receiver(self, app_env: str) -> None:
        if app_env != "dev" and "webhook" in self.channels and self.webhook_url is None:
            raise SettingError(
                "NOTIFYD_WEBHOOK_URL",
                f"is not set, and with APP_ENV={app_env} webhooks go by https only, which the "
                "stack's own receiver does not speak; set an https URL of your own, or "
                "NOTIFYD_CHANNELS=log",
            )
