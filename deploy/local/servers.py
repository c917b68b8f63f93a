"""Which servers the stack starts itself, and how the daemons reach those and the user's own."""

import socket
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis

from deploy.local.apache import ApacheKafka, kafka_jars, nodes_of
from deploy.local.child import StartError
from deploy.local.config import Config
from deploy.local.directory import LocalDirectory
from deploy.local.kafka import Kafka
from deploy.local.postgres import DURABLE, Postgres, place, spare_directory
from deploy.local.s3 import ACCESS_KEY, PORT_NAMES, S3
from deploy.local.service import Server
from deploy.local.valkey import Valkey

ANSWER_SECONDS = 5
OF_A_BROUGHT_S3 = ("S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY")


class Servers:
    """The servers behind the daemons; only what the user has not brought is started."""

    def __init__(
        self, config: Config, directory: LocalDirectory, say: Callable[[str], None]
    ) -> None:
        self._config = config
        self._directory = directory
        self.postgres = None if config.database_url else _postgres(directory, say)
        brought, apache = config.kafka_brokers, config.kafka == "apache"
        self.kafka = None if brought or apache else Kafka(log=directory.log("kafka"))
        self.apache = _apache(config, directory) if apache and not brought else None
        self.valkey = None if config.redis_url else _valkey(directory)
        self.s3 = None if config.s3_endpoint else _s3(directory)
        self._secret_key = directory.password("s3")

    def own(self) -> list[Server]:
        """Slowest first, which is the order to start them in."""
        brokers = self.apache.brokers if self.apache else []
        found = [*brokers, self.s3, self.kafka, self.valkey, self.postgres]
        return [server for server in found if server is not None]

    def moved_data(self) -> Path | None:
        """PostgreSQL's data when it is not in the stack's directory; see postgres.place."""
        data = self.postgres.data if self.postgres else None
        return None if data is None or data.is_relative_to(self._directory.path) else data

    def require(self, say: Callable[[str], None]) -> None:
        """What the user brings answers, and what has to be fetched is here. Raises StartError,
        naming the variable or the program."""
        if self._config.database_url:
            _check_postgres(self._config.database_url)
        if self._config.kafka_brokers:
            _check_kafka(self._config.kafka_brokers)
        if self._config.redis_url:
            _check_redis(self._config.redis_url)
        if self.apache:
            self.apache.jars.fetch(say)

    def prepare(self) -> None:
        """What only the servers of our own need once they are ready."""
        # The mock cluster does not answer CreateTopics, which relayd would ask.
        cluster = self.kafka or self.apache
        if cluster is not None:
            for topic in (self._config.kafka_topic, self._config.kafka_dlq_topic):
                cluster.create_topic(topic, self._config.topic_partitions)
        if self.s3 is not None:
            self.s3.create_bucket(self._config.s3_bucket)

    def settings(self) -> dict[str, str]:
        """The variables that lead to the servers, known once those are ready."""
        config = self._config
        cluster = self.kafka or self.apache
        found = {
            "DATABASE_URL": self.postgres.url() if self.postgres else config.database_url,
            "KAFKA_BROKERS": cluster.bootstrap_servers if cluster else config.kafka_brokers,
            "REDIS_URL": self.valkey.url() if self.valkey else config.redis_url,
            "S3_ENDPOINT": self.s3.url() if self.s3 else config.s3_endpoint,
        }
        if self.s3:
            found |= {
                "S3_BUCKET": config.s3_bucket,
                "S3_ACCESS_KEY": ACCESS_KEY,
                "S3_SECRET_KEY": self._secret_key,
            }
        else:
            found |= {name: config.given.get(name) or None for name in OF_A_BROUGHT_S3}
        return {name: value for name, value in found.items() if value is not None}


def _postgres(directory: LocalDirectory, say: Callable[[str], None]) -> Postgres:
    placement = place(directory.path / "postgres", spare_directory())
    if placement.moved:
        say(
            f"PostgreSQL does not run as root, and its account cannot reach {directory.path}: "
            f"it runs from {placement.programs}, its data is in {placement.data}"
        )
    return Postgres(
        placement=placement,
        port=directory.port("postgres"),
        password=directory.password("postgres"),
        log=directory.log("postgres"),
        settings=DURABLE,
    )


def _apache(config: Config, directory: LocalDirectory) -> ApacheKafka:
    ports = [
        (directory.port(f"kafka-{number}"), directory.port(f"kafka-{number}-controller"))
        for number in range(1, config.kafka_nodes + 1)
    ]
    data = directory.path / f"kafka-{config.kafka_nodes}"
    data.mkdir(mode=0o700, exist_ok=True)
    return ApacheKafka(
        jars=kafka_jars(config.given),
        directory=data,
        nodes=nodes_of(ports),
        logs=directory.path / "logs",
    )


def _valkey(directory: LocalDirectory) -> Valkey:
    return Valkey(
        directory=directory.path / "valkey",
        port=directory.port("valkey"),
        password=directory.password("valkey"),
        log=directory.log("valkey"),
    )


def _s3(directory: LocalDirectory) -> S3:
    return S3(
        directory=directory.path / "s3",
        ports={name: directory.port(name) for name in PORT_NAMES},
        secret_key=directory.password("s3"),
        log=directory.log("s3"),
    )


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_postgres(url: str) -> None:
    try:
        psycopg.connect(url, connect_timeout=ANSWER_SECONDS).close()
    except psycopg.Error as error:
        raise StartError(f"DATABASE_URL: {one_line(error)}") from error


def _check_kafka(brokers: str) -> None:
    reasons = []
    for broker in brokers.split(","):
        host, _, port = broker.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            reasons.append(f"{broker.strip()}: {error}")
        else:
            return
    raise StartError(f"KAFKA_BROKERS: no broker answers: {'; '.join(reasons)}")


def _check_redis(url: str) -> None:
    client = redis.Redis.from_url(url, socket_connect_timeout=ANSWER_SECONDS)
    try:
        client.ping()
    except redis.RedisError as error:
        raise StartError(f"REDIS_URL: {one_line(error)}") from error
    finally:
        client.close()
