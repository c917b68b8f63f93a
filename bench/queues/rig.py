"""The servers of a run: PostgreSQL and Apache Kafka of its own, and what a sample gets of them.

Every sample has a database and a topic that nobody used before, so nothing is left over from the
sample before it but what the servers keep in their caches.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
from confluent_kafka.admin import AdminClient

from bench.__main__ import SERVER
from bench.queues.prefill import prefill
from deploy.local.apache import SERVER_JVM, ApacheKafka, kafka_jars, nodes_of
from deploy.local.ports import free_port
from deploy.local.postgres import Postgres, place, spare_directory
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations

TEMPLATE = "migrated"
PARTITIONS = 12
WARM = "warm"
# One broker with the flags of a server; its log is on the same disk as PostgreSQL's.
KAFKA: Mapping[str, str] = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.retention.ms": "-1",
    "log.segment.bytes": str(256 << 20),
    "message.max.bytes": "2000000",
    "log.cleaner.enable": "true",
}


class Rig:
    """`folder` is for data and logs. `with_logical`: the write-ahead log carries what Debezium
    reads, for everybody in the run. `warm_events` go through the broker first: its first records
    run through code that the JVM has not compiled yet."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], *, with_logical: bool, warm_events: int
    ) -> None:
        self._say = say
        self._warm_events = warm_events
        self.folder = folder
        self.settings: dict[str, str] = dict(SERVER)
        if with_logical:
            self.settings |= {"wal_level": "logical", "logical_decoding_work_mem": "256MB"}
        placement = place(folder / "postgres", spare_directory())
        self.postgres = Postgres(
            placement=placement,
            port=free_port(),
            password=secrets.token_urlsafe(12),
            log=folder / "postgres.log",
            settings=self.settings,
        )
        self.kafka = ApacheKafka(
            jars=kafka_jars(os.environ),
            directory=folder / "kafka",
            nodes=nodes_of([(free_port(), free_port())]),
            logs=folder,
            settings=KAFKA,
            jvm=SERVER_JVM,
        )
        self._number = 0

    def start(self) -> None:
        """Raises StartError."""
        self.kafka.jars.fetch(self._say)
        self._say("starting PostgreSQL and Apache Kafka")
        self.kafka.directory.mkdir(parents=True, exist_ok=True)
        self.kafka.start()
        self.postgres.start()
        self.postgres.wait_ready()
        self.kafka.wait_ready()
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(self.postgres.url(TEMPLATE), read_migrations(MIGRATIONS), report=lambda line: None)
        self._say("warming Kafka up")
        self.create_topic(WARM)
        prefill(self.brokers, WARM, self._warm_events, 400)
        self.drop(WARM)

    def stop(self) -> None:
        self.kafka.kill()
        self.postgres.stop()
        shutil.rmtree(self.postgres.data, ignore_errors=True)

    @property
    def brokers(self) -> str:
        return self.kafka.bootstrap_servers

    @property
    def pids(self) -> dict[str, int]:
        """Of the servers, by the part of the account they go into."""
        database, broker = self.postgres.child, self.kafka.brokers[0].child
        assert database is not None
        assert broker is not None
        return {"database": database.pid, "kafka": broker.pid}

    def new_name(self) -> str:
        self._number += 1
        return f"sample{self._number}"

    def create_database(self, name: str) -> str:
        """The URL of a migrated database without rows."""
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.postgres.url(name)

    def create_topic(self, name: str) -> None:
        self.kafka.create_topic(name, PARTITIONS)

    def drop(self, name: str) -> None:
        """The database and the topic of a sample that is over; a checkpoint, so that none of its
        pages is written out during the next one."""
        with psycopg.connect(self.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute("CHECKPOINT")
        admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        names = [topic for topic in admin.list_topics(timeout=10).topics if topic == name]
        for future in admin.delete_topics(names).values() if names else []:
            future.result(10)
