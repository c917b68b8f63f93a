"""Apache Kafka in KRaft mode on loopback: one broker or several, every one also a controller.

For tests, load and failover, where the development cluster of `kafka.py` is no measure. Records
stay in `directory` and survive stops, kills and restarts.
"""

import base64
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.child import Child, NotReadyError, Program, StartError
from deploy.local.maven import Jars, cache_directory

FILES = Path(__file__).with_name("kafka_broker")
READY_SECONDS = 90.0
STOP_SECONDS = 30.0
ANSWER_SECONDS = 10.0
FORMAT_SECONDS = 60.0
POLL_SECONDS = 0.05
# A heap that holds the small topics of tests; the compiler's first tier alone starts sooner and
# leaves the cores to what is tested. A bench gives the flags of a server instead.
SMALL_JVM = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
SERVER_JVM = ("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")


def kafka_jars(values: Mapping[str, str]) -> Jars:
    """`values` is the environment, which tells where caches are."""
    return Jars(
        name="Apache Kafka",
        pom=FILES / "pom.xml",
        cache=cache_directory(values),
        instead="or set KAFKA_BROKERS to a cluster of your own",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Where a broker listens. Clients are told `advertised`, which is `port` unless something
    stands in between."""

    number: int
    port: int
    controller_port: int
    advertised: int


class Broker:
    """One node as a child process."""

    def __init__(self, node: Node, *, cluster: "ApacheKafka", log: Path) -> None:
        self.node = node
        self.name = "kafka" if cluster.size == 1 else f"kafka-{node.number}"
        self.log = log
        self.child: Child | None = None
        self._cluster = cluster
        self._directory = cluster.directory / str(node.number)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.node.port}"

    def start(self) -> Child:
        """Does not wait, but for formatting the storage at the very first start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._directory / "server.properties"
        lines = self._cluster.settings(self.node, self._directory / "data").items()
        settings.write_text("".join(f"{name}={value}\n" for name, value in lines))
        if not (self._directory / "data" / "meta.properties").exists():
            self._format(settings)
        self.child = Child(self._program(self._cluster.jvm, "kafka.Kafka", str(settings)))
        return self.child

    def wait_ready(self) -> None:
        """Until it answers as a member of the cluster. Raises StartError."""
        if self.child is None:
            raise StartError(f"{self.name} is not started")
        self.child.wait_ready(self._answers, READY_SECONDS)

    def stop(self) -> None:
        """In order: it hands its partitions over first. Does nothing when it is down."""
        if self.child is not None:
            self.child.stop(signal.SIGTERM, STOP_SECONDS)
            self.child = None

    def kill(self) -> None:
        """A crash: what the system had not written to the disk by itself is still in its cache."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def _format(self, settings: Path) -> None:
        arguments = ["format", f"--cluster-id={self._cluster.identity()}", "-c", str(settings)]
        child = Child(self._program(SMALL_JVM, "kafka.tools.StorageTool", *arguments))
        if child.finish(FORMAT_SECONDS) != 0:
            raise StartError(f"{self.name}: {child.last_words()} (log: {self.log})")

    def _program(self, jvm: Sequence[str], main: str, *arguments: str) -> Program:
        java = shutil.which("java")
        if java is None:
            raise StartError(self._cluster.jars.missing())
        log4j = f"-Dlog4j2.configurationFile={FILES / 'log4j2.properties'}"
        return Program(
            name=self.name,
            command=[java, *jvm, log4j, "-cp", self._cluster.jars.classpath, main, *arguments],
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            log=self.log,
            directory=self._directory,
            death_signal=signal.SIGTERM,
        )

    def _answers(self) -> bool:
        try:
            # Much cheaper than a client that is refused.
            socket.create_connection(("127.0.0.1", self.node.port), 1).close()
            admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            found = admin.list_topics(timeout=2)
        except (OSError, KafkaException):
            return False
        return self.node.number in found.brokers


class ApacheKafka:
    """A cluster of its own. `settings` are server properties for every broker, `jvm` its flags."""

    def __init__(
        self,
        *,
        jars: Jars,
        directory: Path,
        nodes: Sequence[Node],
        logs: Path,
        settings: Mapping[str, str] | None = None,
        jvm: Sequence[str] = SMALL_JVM,
    ) -> None:
        self.jars = jars
        self.directory = directory
        self.jvm = jvm
        self._nodes = tuple(nodes)
        self._settings = dict(settings or {})
        names = ["kafka"] if self.size == 1 else [f"kafka-{node.number}" for node in nodes]
        self.brokers = [
            Broker(node, cluster=self, log=logs / f"{name}.log")
            for node, name in zip(nodes, names, strict=True)
        ]

    @property
    def size(self) -> int:
        return len(self._nodes)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"127.0.0.1:{node.advertised}" for node in self._nodes)

    @property
    def replicas(self) -> int:
        return min(3, self.size)

    def start(self) -> None:
        """All brokers. Raises StartError when the jars are not fetched. Does not wait."""
        for broker in self.brokers:
            broker.start()

    def wait_ready(self) -> None:
        """Until all brokers know each other. Raises StartError."""
        for broker in self.brokers:
            broker.wait_ready()
        last = self.brokers[-1].child
        if last is not None:
            last.wait_ready(self._is_complete, READY_SECONDS)

    def stop(self) -> None:
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    def create_topic(
        self, topic: str, partitions: int, settings: Mapping[str, str] | None = None
    ) -> None:
        """Returns when every partition has a leader. One that is there already stays as it is.
        Raises StartError."""
        admin = self._admin()
        new = NewTopic(topic, partitions, self.replicas, config=dict(settings or {}))
        try:
            admin.create_topics([new], request_timeout=ANSWER_SECONDS)[topic].result(ANSWER_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise StartError(f"kafka: topic {topic}: {error.args[0].str()}") from error
        deadline = time.monotonic() + ANSWER_SECONDS
        # A broker may answer before it has heard of the topic itself.
        while min(self.leaders(topic, admin).values(), default=-1) < 0:
            if time.monotonic() > deadline:
                raise NotReadyError(f"kafka: topic {topic} has partitions without a leader")
            time.sleep(POLL_SECONDS)

    def leaders(self, topic: str, admin: AdminClient | None = None) -> dict[int, int]:
        """The node that leads each partition, -1 where none does."""
        found = (admin or self._admin()).list_topics(topic, timeout=ANSWER_SECONDS)
        partitions = found.topics[topic].partitions
        return {number: partition.leader for number, partition in partitions.items()}

    def identity(self) -> str:
        """The cluster's id, made at the first start: 16 random bytes as base64."""
        path = self.directory / "cluster.id"
        if not path.exists():
            path.write_text(base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("="))
        return path.read_text()

    def settings(self, node: Node, data: Path) -> dict[str, str]:
        """The server properties of one broker."""
        voters = [f"{each.number}@127.0.0.1:{each.controller_port}" for each in self._nodes]
        listeners = f"CLIENTS://127.0.0.1:{node.port},CONTROLLER://127.0.0.1:{node.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": ",".join(voters),
            "listeners": listeners,
            "advertised.listeners": f"CLIENTS://127.0.0.1:{node.advertised}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(data),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(self.replicas),
            "min.insync.replicas": str(max(1, self.replicas - 1)),
            "offsets.topic.replication.factor": str(self.replicas),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(self.replicas),
            "transaction.state.log.min.isr": str(max(1, self.replicas - 1)),
            "group.initial.rebalance.delay.ms": "100",
            # Of 128 MB otherwise, which is a third of the heap.
            "log.cleaner.dedupe.buffer.size": str(4 << 20),
            **self._settings,
        }

    def _is_complete(self) -> bool:
        return len(self._admin().list_topics(timeout=ANSWER_SECONDS).brokers) == self.size

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})


def nodes_of(ports: Sequence[tuple[int, int]], advertised: Sequence[int] = ()) -> list[Node]:
    """Nodes 1, 2, … from their pairs of ports, for clients and among controllers."""
    told = advertised or [port for port, _ in ports]
    return [
        Node(number=number, port=port, controller_port=controller, advertised=tell)
        for number, ((port, controller), tell) in enumerate(zip(ports, told, strict=True), 1)
    ]
