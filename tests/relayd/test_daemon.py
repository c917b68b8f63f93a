"""relayd as a process, on a real database and a Kafka cluster."""

import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest
from confluent_kafka import Message

from deploy.local.kafka import Kafka
from servicedesk.database import MIGRATIONS
from servicedesk.migrate import migrate, read_migrations
from tests.conftest import StartDaemon
from tests.relayd.records import consume, headers_of, newest_offsets
from tests.relayd.rows import Connection, count, insert_row, outbox_row
from tests.support.processes import PROJECT, free_port, http_status, wait_until

POISON = '{"description":"' + "x" * 2_000_000 + '"}'


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With short waits."""
    return environment | {
        "RELAYD_DELIVERY_TIMEOUT": "500ms",
        "RELAYD_LEASE": "4s",
        "RELAYD_RETRY_BASE": "50ms",
        "RELAYD_RETRY_CAP": "200ms",
        "RELAYD_POLL_MAX": "50ms",
    }


def outbox_is_empty(connection: Connection) -> bool:
    return count(connection, "outbox") == 0


def insert_events(connection: Connection, tickets: Sequence[UUID], each: int) -> None:
    """Versions 1 to `each` of every ticket, the tickets taking turns."""
    with connection.transaction():
        for sequence in range(1, each + 1):
            for ticket in tickets:
                insert_row(connection, outbox_row(ticket=ticket, sequence=sequence))


def consume_all(environment: Mapping[str, str]) -> list[Message]:
    """Everything on the topic: what was sent twice is there twice."""
    brokers, topic = environment["KAFKA_BROKERS"], environment["KAFKA_TOPIC"]
    return consume(brokers, topic, newest_offsets(brokers, topic))


def sequences(messages: Sequence[Message], ticket: UUID) -> list[int]:
    """Of one ticket, in order of arrival, without repeated events."""
    mine = [m for m in messages if m.key() == str(ticket).encode()]
    found = {orjson.loads(m.value() or b"")["event_id"]: m for m in mine}
    return [orjson.loads(m.value() or b"")["sequence"] for m in found.values()]


def run_relayd(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relayd", *arguments],
        cwd=PROJECT,
        env={"PATH": "/usr/bin", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_event_arrives_in_order_per_ticket_and_the_outbox_is_empty(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    tickets = [uuid4() for _ in range(20)]
    insert_events(connection, tickets, each=10)
    relayd = start_daemon("relayd", environment).wait_ready()
    insert_events(connection, [uuid4() for _ in range(20)], each=5)
    wait_until(lambda: outbox_is_empty(connection), 20, "empty outbox")
    messages = consume_all(environment)
    for ticket in tickets:
        assert sequences(messages, ticket) == list(range(1, 11))
    metrics = relayd.metrics()
    assert 'outbox_published_total{event_type="ticket.updated"} 260.0' in metrics
    assert "outbox_commit_to_ack_seconds_count 300.0" in metrics
    assert relayd.terminate() == 0
    leased = connection.execute("SELECT FROM outbox_bucket WHERE owner IS NOT NULL").fetchall()
    assert leased == []


def test_poisoned_row_holds_back_only_its_key_and_ends_as_a_dead_letter(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    sick, well = uuid4(), uuid4()
    insert_row(connection, outbox_row(ticket=sick, sequence=1, payload=POISON))
    insert_events(connection, [well], each=3)
    insert_row(connection, outbox_row(ticket=sick, sequence=2))
    relayd = start_daemon("relayd", environment | {"RELAYD_MAX_ATTEMPTS": "3"})
    topic = environment["KAFKA_TOPIC"]
    wait_until(lambda: outbox_is_empty(connection), 20, "empty outbox")
    messages = consume_all(environment)
    assert sequences(messages, well) == [1, 2, 3]
    assert sequences(messages, sick) == [2]
    [letter] = consume(environment["KAFKA_BROKERS"], f"{topic}.dlq", 1)
    assert headers_of(letter)["dlq_attempts"] == "3"
    assert headers_of(letter)["dlq_error_class"] == "MSG_SIZE_TOO_LARGE"
    assert not letter.value()
    dead = connection.execute("SELECT aggregate_id, sequence, length(payload) FROM outbox_dead")
    assert dead.fetchall() == [(sick, 1, len(POISON))]
    assert count(connection, "outbox_parked") == 0
    assert "outbox_dead_total 1.0" in relayd.metrics()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_in_the_middle_loses_nothing_and_keeps_the_order(
    connection: Connection,
    environment: dict[str, str],
    start_daemon: StartDaemon,
    number: signal.Signals,
) -> None:
    tickets = [uuid4() for _ in range(50)]
    # So narrow that it is far from done when the signal comes, however late that is.
    narrow = {"RELAYD_MAX_IN_FLIGHT": "1"}
    first = start_daemon("relayd", environment | narrow).wait_ready()
    insert_events(connection, tickets, each=40)
    wait_until(lambda: count(connection, "outbox") < 1900, 30, "progress")
    first.send(number)
    assert first.wait_exit() == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    left = count(connection, "outbox")
    start_daemon("relayd", environment)
    wait_until(lambda: outbox_is_empty(connection), 20, "empty outbox")
    messages = consume_all(environment)
    assert left > 0, "it ended only after the work was done"
    for ticket in tickets:
        assert sequences(messages, ticket) == list(range(1, 41))


def test_kafka_away_costs_no_attempts_and_is_made_up_for(
    connection: Connection,
    environment: dict[str, str],
    own_kafka: Kafka,
    start_daemon: StartDaemon,
) -> None:
    brokers = own_kafka.bootstrap_servers
    relayd = start_daemon("relayd", environment | {"KAFKA_BROKERS": brokers}).wait_ready()
    ticket = uuid4()
    insert_events(connection, [ticket], each=1)
    wait_until(lambda: outbox_is_empty(connection), 10, "empty outbox")
    own_kafka.down()
    insert_events(connection, [uuid4() for _ in range(20)], each=2)
    wait_until(lambda: "outbox_circuit_open 1.0" in relayd.metrics(), 10, "open circuit")
    assert not relayd.is_ready()
    assert http_status(f"{relayd.admin_url}/healthz") == 200
    assert count(connection, "outbox_parked") == 0
    own_kafka.up()
    wait_until(lambda: outbox_is_empty(connection), 15, "empty outbox")
    wait_until(relayd.is_ready, 5, "readiness")
    assert count(connection, "outbox_dead") == 0


def test_kafka_away_at_the_start_is_waited_for(
    connection: Connection,
    environment: dict[str, str],
    own_kafka: Kafka,
    start_daemon: StartDaemon,
) -> None:
    own_kafka.down()
    insert_events(connection, [uuid4() for _ in range(5)], each=2)
    brokers = own_kafka.bootstrap_servers
    relayd = start_daemon("relayd", environment | {"KAFKA_BROKERS": brokers})
    wait_until(lambda: relayd.events("started"), 10, "start")
    assert not relayd.is_ready()
    own_kafka.up()
    wait_until(lambda: outbox_is_empty(connection), 20, "empty outbox")
    relayd.wait_ready()
    assert relayd.terminate() == 0


def test_sigterm_with_kafka_away_ends_in_time(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    insert_events(connection, [uuid4() for _ in range(5)], each=2)
    away = {"KAFKA_BROKERS": f"127.0.0.1:{free_port()}"}
    relayd = start_daemon("relayd", environment | away | {"SHUTDOWN_TIMEOUT": "5s"})
    wait_until(lambda: relayd.events("started"), 10, "start")
    assert relayd.terminate(seconds=6) == 0
    assert count(connection, "outbox") == 10


def test_database_that_is_not_migrated_is_waited_for(
    empty_database_url: str, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    relayd = start_daemon("relayd", environment | {"DATABASE_URL": empty_database_url})
    wait_until(lambda: http_status(f"{relayd.admin_url}/readyz") == 503, 10, "503")
    wait_until(lambda: relayd.events("not_ready"), 10, "reason in the log")
    assert "python -m servicedesk.migrate" in relayd.text()
    migrate(empty_database_url, read_migrations(MIGRATIONS), report=lambda line: None)
    relayd.wait_ready()


def test_database_away_at_the_start_is_not_the_end(
    environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    url = f"postgresql://u:very-secret@127.0.0.1:{free_port()}/db"
    relayd = start_daemon("relayd", environment | {"DATABASE_URL": url})
    wait_until(lambda: http_status(f"{relayd.admin_url}/readyz") == 503, 10, "503")
    assert http_status(f"{relayd.admin_url}/healthz") == 200
    assert relayd.terminate() == 0
    assert "very-secret" not in relayd.text()


def test_database_that_was_never_away_is_not_said_to_be_back(
    environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    relayd = start_daemon("relayd", environment).wait_ready()
    assert relayd.terminate() == 0
    assert "database_" not in relayd.text()


def test_signal_from_the_writer_beats_the_poll(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    # The lease too, because every renewal is followed by a look.
    slow = {"RELAYD_POLL_MIN": "60s", "RELAYD_POLL_MAX": "60s", "RELAYD_LEASE": "600s"}
    start_daemon("relayd", environment | slow).wait_ready()
    listening = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN outbox' AND state = 'idle'"
    wait_until(lambda: connection.execute(listening.encode()).fetchone(), 10, "listener")
    insert_events(connection, [uuid4()], each=1)
    connection.execute("NOTIFY outbox")
    consume(environment["KAFKA_BROKERS"], environment["KAFKA_TOPIC"], 1, seconds=10)


def test_lost_listener_connects_again(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    start_daemon("relayd", environment).wait_ready()
    listening = "SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN outbox'"

    def listener() -> object:
        found = connection.execute(listening.encode()).fetchone()
        return found and found[0]

    first = wait_until(listener, 10, "listener")
    connection.execute("SELECT pg_terminate_backend(%s)", (first,))
    wait_until(lambda: listener() not in {None, first}, 10, "another listener")


def test_taken_metrics_address_is_named_with_its_variable(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run_relayd(environment | {"METRICS_ADDR": address})
    assert ended.returncode != 0
    assert ended.stderr.startswith(f"error: METRICS_ADDR is {address}")
    assert len(ended.stderr.splitlines()) == 1


def test_wrong_setting_is_one_line_and_exit_code_2(environment: dict[str, str]) -> None:
    ended = run_relayd(environment | {"RELAYD_BATCH_SIZE": "many"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: RELAYD_BATCH_SIZE is 'many'; it takes")
    assert len(ended.stderr.splitlines()) == 1


def test_database_with_another_number_of_buckets_is_refused(
    connection: Connection, environment: dict[str, str]
) -> None:
    connection.execute("DELETE FROM outbox_bucket WHERE bucket > 31")
    address = {"METRICS_ADDR": f"127.0.0.1:{free_port()}"}
    ended = run_relayd(environment | address)
    assert ended.returncode == 1
    assert "error: the database has 32 buckets" in ended.stderr


def test_parked_key_goes_on_after_it_is_skipped_by_hand(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    sick = uuid4()
    insert_row(connection, outbox_row(ticket=sick, sequence=1, payload=POISON))
    insert_row(connection, outbox_row(ticket=sick, sequence=2))
    hour = {"RELAYD_RETRY_BASE": "1h", "RELAYD_RETRY_CAP": "1h"}
    start_daemon("relayd", environment | hour).wait_ready()
    wait_until(lambda: count(connection, "outbox_parked"), 10, "parked key")
    assert str(sick) in run_relayd(environment, "parked").stdout
    assert run_relayd(environment, "skip", str(sick)).returncode == 0
    [message] = consume(environment["KAFKA_BROKERS"], environment["KAFKA_TOPIC"], 1)
    assert sequences([message], sick) == [2]
    assert "skipped by operator" in run_relayd(environment, "dead").stdout
    wait_until(lambda: outbox_is_empty(connection), 10, "empty outbox")


def test_parked_key_is_sent_at_once_after_it_is_retried_by_hand(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    sick = uuid4()
    row_id = insert_row(connection, outbox_row(ticket=sick, sequence=1, payload=POISON))
    hour = {"RELAYD_RETRY_BASE": "1h", "RELAYD_RETRY_CAP": "1h"}
    start_daemon("relayd", environment | hour).wait_ready()
    wait_until(lambda: count(connection, "outbox_parked"), 10, "parked key")
    connection.execute("UPDATE outbox SET payload = '{}' WHERE id = %s", (row_id,))
    assert run_relayd(environment, "retry", str(sick)).stdout == "due now: 1 of 1 parked keys\n"
    [message] = consume(environment["KAFKA_BROKERS"], environment["KAFKA_TOPIC"], 1)
    assert orjson.loads(message.value() or b"")["payload"] == {}
    wait_until(lambda: not count(connection, "outbox_parked"), 10, "freed key")


def test_redriven_row_arrives_as_the_same_event(
    connection: Connection, environment: dict[str, str], start_daemon: StartDaemon
) -> None:
    sick = uuid4()
    insert_row(connection, outbox_row(ticket=sick, sequence=1, payload=POISON))
    start_daemon("relayd", environment | {"RELAYD_MAX_ATTEMPTS": "1"}).wait_ready()
    wait_until(lambda: count(connection, "outbox_dead"), 10, "dead row")
    connection.execute("UPDATE outbox_dead SET payload = '{}'")
    [[event_id]] = connection.execute("SELECT event_id FROM outbox_dead").fetchall()
    assert run_relayd(environment, "redrive", str(event_id)).returncode == 0
    [message] = consume(environment["KAFKA_BROKERS"], environment["KAFKA_TOPIC"], 1)
    assert headers_of(message)["ce_id"] == str(event_id)


def test_commands_need_only_the_database(database_url: str) -> None:
    assert run_relayd({"DATABASE_URL": database_url}, "status").stdout.startswith("queue")
    without = run_relayd({}, "status")
    assert (without.returncode, without.stderr.partition(" is")[0]) == (2, "error: DATABASE_URL")
    assert run_relayd({}, "stauts").returncode == 2
    assert run_relayd({"DATABASE_URL": database_url}, "retry", str(uuid4())).returncode == 1


def test_log_lines_are_json_and_name_the_worker(
    environment: dict[str, str], start_daemon: StartDaemon, tmp_path: Path
) -> None:
    relayd = start_daemon("relayd", environment).wait_ready()
    [started] = relayd.events("started")
    host, pid, tail = str(started["owner"]).rsplit(":", 2)
    assert (host, int(pid)) == (socket.gethostname(), relayd.pid)
    assert len(tail) == 8
    assert relayd.terminate() == 0
    lines = relayd.text().splitlines()
    assert [line for line in lines if not line.startswith("{")] == []
