"""Kafka for development: librdkafka's own cluster, three brokers in a process of their own.

Records live in memory and end with the process. The child half (`python -m deploy.local.kafka`)
holds the cluster and takes commands on its standard input; the parent half is `Kafka`.
"""

import ctypes
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from deploy.local.child import Child, Program, StartError

BROKERS = 3
PROJECT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 10.0
STOP_SECONDS = 5.0
ALL_BROKERS = -1
RD_KAFKA_PRODUCER = 0
# The default of three seconds is for clusters whose members start minutes apart.
REBALANCE_DELAY_MILLISECONDS = 100


class MockCluster:
    """librdkafka's mock cluster through its C interface; lives until the process ends.

    Source: rdkafka_mock.h, which calls itself experimental; the pinned wheel keeps it what it is.
    """

    def __init__(self, brokers: int) -> None:
        from confluent_kafka import cimpl  # noqa: PLC0415 - only the child half loads librdkafka

        # A symbol looked up in a library is also looked up in what it links to, so this finds the
        # librdkafka of the wheel on every platform, whatever its file is called there.
        library = ctypes.CDLL(cimpl.__file__)
        library.rd_kafka_conf_new.restype = ctypes.c_void_p
        library.rd_kafka_conf_set.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
        ]  # fmt: skip
        library.rd_kafka_new.restype = ctypes.c_void_p
        library.rd_kafka_new.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t,
        ]  # fmt: skip
        library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
        library.rd_kafka_mock_topic_create.argtypes = [
            ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int,
        ]  # fmt: skip
        for name in ("broker_set_down", "broker_set_up", "group_initial_rebalance_delay_ms"):
            getattr(library, f"rd_kafka_mock_{name}").argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self._library = library
        self._brokers = brokers
        self._cluster = self._create()

    def _create(self) -> int:
        reason = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", b"3", reason, len(reason))
        handle = self._library.rd_kafka_new(RD_KAFKA_PRODUCER, settings, reason, len(reason))
        cluster = handle and self._library.rd_kafka_mock_cluster_new(handle, self._brokers)
        if not cluster:
            raise StartError(f"librdkafka made no cluster: {reason.value.decode()}")
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(
            cluster, REBALANCE_DELAY_MILLISECONDS
        )
        return int(cluster)

    def bootstrap_servers(self) -> str:
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return servers.decode()

    def create_topic(self, topic: str, partitions: int) -> int:
        """Returns librdkafka's error code, 0 for success."""
        return int(
            self._library.rd_kafka_mock_topic_create(
                self._cluster, topic.encode(), partitions, self._brokers
            )
        )

    def set_down(self) -> int:
        """Disconnects everybody and refuses connections; records and offsets stay."""
        return int(self._library.rd_kafka_mock_broker_set_down(self._cluster, ALL_BROKERS))

    def set_up(self) -> int:
        return int(self._library.rd_kafka_mock_broker_set_up(self._cluster, ALL_BROKERS))


def obey(cluster: MockCluster, line: str) -> str:
    """Carry out one command of `Kafka` and return the answer's line."""
    match line.split():
        case ["topic", name, partitions]:
            code = cluster.create_topic(name, int(partitions))
        case ["down"]:
            code = cluster.set_down()
        case ["up"]:
            code = cluster.set_up()
        case _:
            return f"error: unknown command {line!r}"
    return "ok" if code == 0 else f"error: librdkafka answered {code}"


def main() -> int:
    """Print the bootstrap servers, then obey until the parent closes our standard input."""
    cluster = MockCluster(BROKERS)
    print(cluster.bootstrap_servers(), flush=True)
    for line in sys.stdin:
        print(obey(cluster, line), flush=True)
    # The cluster's threads have nothing to save, and taking them down in order can block.
    os._exit(0)


class Kafka:
    """The parent half: a cluster as a child process."""

    name = "kafka"

    def __init__(self, *, log: Path) -> None:
        self.log = log
        self.child: Child | None = None
        self.bootstrap_servers = ""
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self.bootstrap_servers

    def start(self) -> Child:
        """Does not wait."""
        self.child = Child(
            Program(
                name=self.name,
                command=[sys.executable, "-m", "deploy.local.kafka"],
                environment={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
                log=self.log,
                directory=PROJECT,
                with_pipes=True,
            )
        )
        return self.child

    def wait_ready(self) -> None:
        """Returns when the addresses are known, which the brokers then listen on."""
        self.bootstrap_servers = self._read_line()

    def create_topic(self, topic: str, partitions: int) -> None:
        """A topic made so has the partitions asked for; one that appears on first use has four."""
        self._command(f"topic {topic} {partitions}")

    def down(self) -> None:
        """Nobody is connected and nobody can connect until `up`; records and offsets stay."""
        self._command("down")

    def up(self) -> None:
        self._command("up")

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop(signal.SIGTERM, STOP_SECONDS)
            self.child = None

    def _command(self, line: str) -> None:
        if self.child is None:
            raise StartError("kafka is not started")
        with self._lock:
            commands, _ = self.child.pipes
            commands.write(line.encode() + b"\n")
            commands.flush()
            answer = self._read_line()
        if answer != "ok":
            raise StartError(f"kafka: {line}: {answer}")

    def _read_line(self) -> str:
        if self.child is None:
            raise StartError("kafka is not started")
        _, answers = self.child.pipes
        deadline = time.monotonic() + ANSWER_SECONDS
        # A line is written at once and is shorter than a pipe's buffer.
        readable, _, _ = select.select([answers], [], [], deadline - time.monotonic())
        line = answers.readline().decode().strip() if readable else ""
        if not line:
            raise StartError(f"kafka does not answer: {self.child.last_words()} (log: {self.log})")
        return line


if __name__ == "__main__":
    sys.exit(main())
