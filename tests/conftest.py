"""The servers that tests run on: real ones, started once per test process from the wheels.

Every test gets a database of its own, and names of its own on the Kafka cluster that all share.
"""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.apache import ApacheKafka, kafka_jars, nodes_of
from deploy.local.kafka import Kafka
from deploy.local.ports import free_port
from deploy.local.postgres import FLEETING, Postgres, place, spare_directory
from deploy.local.s3 import S3
from deploy.local.valkey import Valkey
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations
from tests.faults.scenario import Scenario
from tests.support.processes import Daemon
from tests.support.storage import Storage, new_s3

TEMPLATE = "migrated"

CreateCluster = Callable[..., ApacheKafka]
StartDaemon = Callable[[str, Mapping[str, str]], Daemon]


def pytest_configure() -> None:
    # A shell has what it runs in the background ignore interrupts, and the programs that tests
    # start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-length",
        action="store_true",
        help="fault scenarios as long as docs/delivery.md says",
    )
    parser.addoption(
        "--keep-figures", type=Path, metavar="DIRECTORY", help="write what fault scenarios measured"
    )


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Scenario:
    """The fault scenario that the test is; see tests/faults/."""
    return Scenario(
        test=request.node.name.removeprefix("test_"),
        is_full=request.config.getoption("--full-length"),
        keep=request.config.getoption("--keep-figures"),
    )


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests run on the loop that the daemons run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """For data and logs of the session's servers; root's servers run as `nobody`, so it is open
    for passing through."""
    directory = Path(tempfile.mkdtemp(prefix="servicedesk-tests-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def _new_postgres(directory: Path) -> Postgres:
    placement = place(directory / "postgres", spare_directory())
    server = Postgres(
        placement=placement,
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=directory / "postgres.log",
        settings=FLEETING,
    )
    server.start()
    return server


@pytest.fixture(scope="session")
def shared_postgres(servers_directory: Path) -> Iterator[Postgres]:
    """The server of all databases of the session. A test that stops or breaks its server takes
    `own_postgres`."""
    server = _new_postgres(servers_directory)
    server.wait_ready()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(server.url(TEMPLATE), read_migrations(MIGRATIONS), report=lambda line: None)
    yield server
    server.stop(signal.SIGQUIT)  # quick, and leaves nothing in /dev/shm, as kill would
    shutil.rmtree(server.data, ignore_errors=True)


@pytest.fixture
def own_postgres(servers_directory: Path) -> Iterator[Postgres]:
    """A server for one test, to be stopped, restarted and killed; its database is migrated."""
    directory = Path(tempfile.mkdtemp(dir=servers_directory))
    directory.chmod(0o711)
    server = _new_postgres(directory)
    server.wait_ready()
    migrate(server.url(), read_migrations(MIGRATIONS), report=lambda line: None)
    yield server
    server.stop(signal.SIGQUIT)  # quick, and leaves nothing in /dev/shm, as kill would
    shutil.rmtree(server.data, ignore_errors=True)


@pytest.fixture
def database_url(shared_postgres: Postgres, unique_name: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _database(shared_postgres, unique_name, TEMPLATE)


@pytest.fixture
def empty_database_url(shared_postgres: Postgres, unique_name: str) -> Iterator[str]:
    """A database of the test's own without any table."""
    yield from _database(shared_postgres, f"{unique_name}_empty", "template0")


def _database(server: Postgres, name: str, template: str) -> Iterator[str]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_kafka(servers_directory: Path) -> Iterator[Kafka]:
    """The cluster of the session; `create_topic(name, partitions)` where four are not right.
    A test that takes its brokers down takes `own_kafka`."""
    cluster = Kafka(log=servers_directory / "kafka.log")
    cluster.start()
    cluster.wait_ready()
    yield cluster
    cluster.stop()


@pytest.fixture
def own_kafka(servers_directory: Path, unique_name: str) -> Iterator[Kafka]:
    """A cluster for one test, to be taken `down()` and `up()` again with its data."""
    cluster = Kafka(log=servers_directory / f"kafka-{unique_name}.log")
    cluster.start()
    cluster.wait_ready()
    yield cluster
    cluster.stop()


@pytest.fixture
def kafka_brokers(shared_kafka: Kafka) -> str:
    return shared_kafka.bootstrap_servers


@pytest.fixture(scope="session")
def create_cluster(servers_directory: Path) -> Iterator[CreateCluster]:
    """Makes a cluster of Apache Kafka, started and ready, with as many `brokers` as asked for and
    with the arguments of ApacheKafka. `ports` are where they listen, free ones unless given;
    clients are told `advertised` instead where something stands in between. A test may `kill` it
    itself; what runs at the end of the session is killed. Skipped where Java or Maven is missing,
    which CI counts as a failure."""
    jars = kafka_jars(os.environ)
    if missing := jars.missing():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    jars.fetch(print)
    clusters: list[ApacheKafka] = []

    def create(
        brokers: int = 1,
        *,
        ports: Sequence[int] = (),
        advertised: Sequence[int] = (),
        **more: Any,
    ) -> ApacheKafka:
        taken = list(ports)
        while len(taken) < 2 * brokers:
            taken.append(free_port(taken))
        pairs = list(zip(taken[:brokers], taken[brokers:], strict=True))
        directory = Path(tempfile.mkdtemp(prefix="kafka-", dir=servers_directory))
        cluster = ApacheKafka(
            jars=jars,
            directory=directory,
            nodes=nodes_of(pairs, advertised),
            logs=directory,
            **more,
        )
        clusters.append(cluster)
        cluster.start()
        cluster.wait_ready()
        return cluster

    yield create
    for cluster in clusters:
        cluster.kill()


@pytest.fixture(scope="session")
def apache_kafka(create_cluster: CreateCluster) -> ApacheKafka:
    """One broker that the tests of the session share, each with topics of its own. A test that
    stops it makes its own with `create_cluster`. Mark the test `kafka`."""
    return create_cluster()


@pytest.fixture(scope="session")
def valkey_url(servers_directory: Path) -> Iterator[str]:
    server = Valkey(
        directory=servers_directory / "valkey",
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=servers_directory / "valkey.log",
    )
    server.start()
    server.wait_ready()
    yield server.url()
    server.stop()


@pytest.fixture(scope="session")
def shared_s3(servers_directory: Path) -> Iterator[S3]:
    """The S3 server of the session. A test that takes it away takes `own_storage`."""
    server = new_s3(servers_directory / "s3")
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def storage(shared_s3: S3, unique_name: str) -> Iterator[Storage]:
    """A bucket of the test's own."""
    bucket = Storage(shared_s3, unique_name).create()
    yield bucket
    bucket.remove()


@pytest.fixture
def own_storage(servers_directory: Path, unique_name: str) -> Iterator[Storage]:
    """A server with a bucket for one test, to be stopped, frozen and started again."""
    server = new_s3(Path(tempfile.mkdtemp(dir=servers_directory)))
    server.start()
    server.wait_ready()
    yield Storage(server, unique_name).create()
    server.stop()


@pytest.fixture
def unique_name() -> str:
    """For topics, groups, databases: lower-case letters and digits, never given twice."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts a daemon as a process; whatever of them still runs is killed after the test."""
    started: list[Daemon] = []

    def start(module: str, environment: Mapping[str, str]) -> Daemon:
        daemon = Daemon(module, environment, directory=tmp_path)
        started.append(daemon)
        return daemon.start()

    yield start
    for daemon in started:
        daemon.kill()
