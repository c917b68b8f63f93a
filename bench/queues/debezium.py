"""The Debezium peer: its jars, its settings, its slot.

Tuned as its documentation advises for throughput, so that it is not held back by defaults: bigger
queue and batches, a producer that waits to fill its batches, lz4, no schemas, no JSON to parse, one
table, no snapshot. Sources: Debezium 3.7, "PostgreSQL connector" and "Outbox Event Router"; Apache
Kafka 4.3, "Kafka Connect".
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deploy.local.apache import FILES
from deploy.local.child import Program
from deploy.local.maven import Jars, cache_directory

POM = Path(__file__).resolve().parents[1] / "peers" / "debezium" / "pom.xml"
# With the slot made before the events are written, everything comes from the log.
PREPARE = (
    "CREATE PUBLICATION outbox_debezium FOR TABLE outbox_debezium WITH (publish = 'insert')",
    "SELECT pg_create_logical_replication_slot('outbox_debezium', 'pgoutput')",
)
END = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
WHERE slot_name = 'outbox_debezium' AND active_pid IS NOT NULL;
SELECT pg_sleep(0.3);
SELECT pg_drop_replication_slot('outbox_debezium')
"""
JVM = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC")
TUNING: Mapping[str, str] = {
    "plugin.name": "pgoutput",
    "snapshot.mode": "no_data",
    "max.batch.size": "16384",
    "max.queue.size": "65536",
    "poll.interval.ms": "5",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    "tombstones.on.delete": "false",
}
WORKER_TUNING: Mapping[str, str] = {
    "producer.acks": "all",
    "producer.enable.idempotence": "true",
    "producer.compression.type": "lz4",
    "producer.linger.ms": "5",
    "producer.batch.size": "262144",
    "producer.buffer.memory": "134217728",
    "producer.max.in.flight.requests.per.connection": "5",
    "offset.flush.interval.ms": "10000",
}


def jars(values: Mapping[str, str]) -> Jars:
    return Jars(
        name="Debezium", pom=POM, cache=cache_directory(values), instead="or leave the peer out"
    )


def program(url: str, brokers: str, topic: str, folder: Path) -> Program:
    """Kafka Connect standalone with one connector; its REST port is one that the system picks."""
    java = shutil.which("java")
    assert java is not None, "asked before"
    worker, connector = folder / f"{topic}-worker.properties", folder / f"{topic}.properties"
    worker.write_text(_lines(_worker(brokers, folder / f"{topic}.offsets")))
    # The password is in it.
    connector.touch(mode=0o600)
    connector.write_text(_lines(_connector(url, topic)))
    classes = jars(os.environ).classpath
    log4j = f"-Dlog4j2.configurationFile={FILES / 'log4j2.properties'}"
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    return Program(
        name="debezium",
        command=[java, *JVM, log4j, "-cp", classes, main, str(worker), str(connector)],
        environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        log=folder / "debezium.log",
        directory=folder,
    )


def _worker(brokers: str, offsets: Path) -> dict[str, str]:
    return {
        "bootstrap.servers": brokers,
        "offset.storage.file.filename": str(offsets),
        "listeners": "http://127.0.0.1:0",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter",
        **WORKER_TUNING,
    }


def _connector(url: str, topic: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "name": "outbox",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": parts.hostname or "",
        "database.port": str(parts.port),
        "database.user": parts.username or "",
        "database.password": unquote(parts.password or ""),
        "database.dbname": parts.path.lstrip("/"),
        "topic.prefix": "bench",
        "slot.name": "outbox_debezium",
        "publication.name": "outbox_debezium",
        "publication.autocreate.mode": "disabled",
        "table.include.list": "public.outbox_debezium",
        "transforms": "outbox",
        "transforms.outbox.route.topic.replacement": topic,
        **TUNING,
    }


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())
