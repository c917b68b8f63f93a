"""`make up` from the outside: a process that is started, looked at, hurt and stopped."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import httpx
import psutil
import pytest

from deploy.local.config import Config
from deploy.local.postgres import place, spare_directory
from servicedesk.environment import SettingError
from tests.support.processes import PROJECT, free_port, wait_until
from tests.support.stack import StackProcess
from tests.support.storage import Storage

TITLE = "Принтер на третьем этаже не печатает 🖨️"
# Where S3 is not what a test is about, three seconds are saved.
WITHOUT_S3 = {"S3_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def local_directory(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "local"
    yield directory
    rmtree(place(directory / "postgres", spare_directory()).data, ignore_errors=True)


def create_ticket(stack: StackProcess) -> str:
    body = {"title": TITLE, "requester": "anna@example.org"}
    answer = httpx.post(f"http://{stack.api}/tickets", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def delivered(stack: StackProcess, ticket: str) -> list[str]:
    """The lines in which the receiver says that it has verified a delivery for the ticket."""
    lines = stack.output().splitlines()
    return [line for line in lines if "receiver" in line and ticket in line]


def left_of(family: list[psutil.Process]) -> list[psutil.Process]:
    """Who still runs; what has ended and waits for the machine's init to notice does not."""
    return [
        process
        for process in family
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_ticket_travels_and_ctrl_c_leaves_nothing(local_directory: Path) -> None:
    with StackProcess(local_directory, {}) as stack:
        stack.wait_ready()
        ticket = create_ticket(stack)
        (line,) = wait_until(lambda: delivered(stack, ticket), 20, "delivery at the receiver")
        assert "ticket.created" in line
        assert "signature=ok" in line
        assert TITLE in line
        for name in ("postgres", "kafka", "valkey", "s3", "receiver", "relayd", "notifyd"):
            assert psutil.pid_exists(stack.pid_of(name))
        settings = local_directory / "stack.env"
        assert stat.S_IMODE(settings.stat().st_mode) == 0o600
        family = stack.family()
        assert len(family) >= 8
        assert stack.interrupt() == 0, stack.output()
        wait_until(lambda: not left_of(family), 10, "end of the whole family")
        assert not settings.exists()
        last = stack.output().splitlines()[-1]
    data = place(local_directory / "postgres", spare_directory()).data
    assert f"the data stays in {local_directory}" in last
    assert data.is_relative_to(local_directory) or str(data) in last


def test_killed_daemon_is_started_again_and_nothing_is_lost(local_directory: Path) -> None:
    with StackProcess(local_directory, WITHOUT_S3) as stack:
        stack.wait_ready()
        os.kill(stack.pid_of("relayd"), signal.SIGKILL)
        wait_until(lambda: "relayd was ended by SIGKILL" in stack.output(), 10, "line of the end")
        ticket = create_ticket(stack)
        wait_until(lambda: "relayd runs again" in stack.output(), 20, "line of the new start")
        wait_until(lambda: delivered(stack, ticket), 30, "delivery at the receiver")


def test_second_start_has_the_data_and_a_dead_server_ends_it(local_directory: Path) -> None:
    with StackProcess(local_directory, WITHOUT_S3) as first:
        first.wait_ready()
        ticket = create_ticket(first)
        assert first.interrupt() == 0, first.output()
    with StackProcess(local_directory, WITHOUT_S3) as second:
        second.wait_ready()
        found = httpx.get(f"http://{second.api}/tickets/{ticket}")
        assert found.json()["title"] == TITLE
        family = second.family()
        os.kill(second.pid_of("kafka"), signal.SIGKILL)
        assert second.wait_end() == 1
        assert second.output().splitlines()[-1].startswith("error: kafka was ended by SIGKILL")
        assert "the development Kafka has ended and keeps nothing" in second.output()
        wait_until(lambda: not left_of(family), 10, "end of the whole family")


def test_what_the_user_brings_is_used_and_not_started(
    local_directory: Path,
    database_url: str,
    kafka_brokers: str,
    valkey_url: str,
    storage: Storage,
) -> None:
    unique_name = storage.bucket
    brought = {
        **storage.settings,
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": kafka_brokers,
        "KAFKA_TOPIC": unique_name,
        "KAFKA_DLQ_TOPIC": f"{unique_name}.dlq",
        "KAFKA_GROUP_ID": unique_name,
        "REDIS_URL": valkey_url,
        "NOTIFYD_CHANNELS": "log",
    }
    with StackProcess(local_directory, brought) as stack:
        stack.wait_ready()
        started = {" ".join(process.cmdline()) for process in stack.family()}
        ours = ("ticketd", "relayd", "notifyd")
        assert all(any(f"-m {name}" in line for line in started) for name in ours)
        assert not any(
            name in line for line in started for name in ("postgres", "valkey", "weed", "receiver")
        )
        again = run_up(stack.environment)
        assert again.returncode == 1
        assert f"error: a stack runs already in {local_directory}" in again.stderr
        demo = subprocess.run(
            [sys.executable, "-m", "deploy.local", "demo"],
            env=stack.environment,
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert demo.stdout.count(f"{unique_name}, partition") == 4
        assert demo.stdout.count("acknowledged by log") == 4
        assert len(storage.keys()) == 1
        assert stack.interrupt() == 0, stack.output()


def run_up(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", "up"],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("variable", ["HTTP_ADDR", "NOTIFYD_METRICS_ADDR"])
def test_taken_port_is_named_with_its_variable(tmp_path: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        environment = StackProcess(tmp_path / "local", {variable: address}).environment
        run = run_up(environment)
    assert run.returncode == 1
    assert f"error: {variable}: cannot listen on {address}: Address already in use" in run.stderr


def test_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://anna:s3cret@127.0.0.1:{free_port()}/desk"
    run = run_up(StackProcess(tmp_path / "local", {"DATABASE_URL": url}).environment)
    assert run.returncode == 1
    assert run.stderr.startswith("error: DATABASE_URL: connection failed")
    assert "s3cret" not in run.stdout + run.stderr
    assert run.stderr.count("\n") == 1


def test_daemon_that_refuses_its_settings_ends_the_start(
    tmp_path: Path, database_url: str, kafka_brokers: str, valkey_url: str
) -> None:
    environment = {
        **WITHOUT_S3,
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": kafka_brokers,
        "REDIS_URL": valkey_url,
        "RELAYD_BATCH_SIZE": "many",
    }
    with StackProcess(tmp_path / "local", environment) as stack:
        assert stack.wait_end() == 1
        last = stack.output().splitlines()[-1]
    assert last.startswith("error: relayd ended with exit code 2: RELAYD_BATCH_SIZE is")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"HTTP_ADDR": "127.0.0.1:9090"}, ["HTTP_ADDR", "RELAYD_METRICS_ADDR"]),
        ({"HTTP_ADDR": "localhost:9089"}, ["HTTP_ADDR", "TICKETD_METRICS_ADDR"]),
        (
            {"NOTIFYD_METRICS_ADDR": "0.0.0.0:9090"},
            ["RELAYD_METRICS_ADDR", "NOTIFYD_METRICS_ADDR"],
        ),
        ({"KAFKA_BROKERS": "nonsense"}, ["KAFKA_BROKERS", "HOST:PORT"]),
        ({"APP_ENV": "production"}, ["NOTIFYD_WEBHOOK_URL", "https", "NOTIFYD_CHANNELS=log"]),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    given: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(SettingError) as refused:
        Config.from_environment(given)
    assert refused.value.name == named[0]
    assert [name for name in named if name not in str(refused.value)] == []


def test_production_with_channels_of_its_own_is_taken() -> None:
    for given in ({"NOTIFYD_CHANNELS": "log"}, {"NOTIFYD_WEBHOOK_URL": "https://example.org/hook"}):
        Config.from_environment({"APP_ENV": "production", **given})


def test_one_metrics_address_for_three_daemons_is_refused(tmp_path: Path) -> None:
    environment = StackProcess(tmp_path / "local", {"METRICS_ADDR": "127.0.0.1:9"}).environment
    run = run_up(environment)
    assert run.returncode == 2
    assert "error: METRICS_ADDR is one address" in run.stderr


def test_demo_without_a_stack_says_make_up(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deploy.local", "demo"],
        env={"LOCAL_DIR": str(tmp_path / "local")},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.endswith("start it first: make up\n")
    assert not (tmp_path / "local").exists()
