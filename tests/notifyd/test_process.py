"""`python -m notifyd` as a process, from Kafka to the receivers."""

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

import httpx
import orjson
from standardwebhooks.webhooks import Webhook

from deploy.local.kafka import Kafka
from deploy.local.postgres import Postgres
from servicedesk.database import MIGRATIONS
from servicedesk.event import envelope
from servicedesk.migrate import migrate, read_migrations
from tests.notifyd.mailbox import Mailbox
from tests.notifyd.receiver import Answer, Receiver, Request
from tests.notifyd.samples import (
    SECRET,
    TRACEPARENT,
    event,
    fetch,
    headers_of,
    produce,
    read_topic,
)
from tests.support.processes import PROJECT, Daemon, http_status, wait_until
from tests.support.raw_records import produce_raw

StartDaemon = Callable[[str, Mapping[str, str]], Daemon]


def environment(database_url: str, brokers: str, name: str, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": brokers,
        "KAFKA_TOPIC": name,
        "KAFKA_DLQ_TOPIC": f"{name}.dlq",
        "KAFKA_GROUP_ID": name,
        "NOTIFYD_FETCH_WAIT": "10ms",
        "NOTIFYD_RETRY_BASE": "20ms",
        "NOTIFYD_RETRY_CAP": "50ms",
        **more,
    }


def with_webhook(receiver: Receiver) -> dict[str, str]:
    return {"NOTIFYD_WEBHOOK_URL": receiver.url, "NOTIFYD_WEBHOOK_SECRET": SECRET}


def command(arguments: Sequence[str], database_url: str) -> tuple[int, str]:
    """`python -m notifyd ARGUMENTS`: the exit code and what it printed."""
    found = subprocess.run(
        [sys.executable, "-m", "notifyd", *arguments],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "DATABASE_URL": database_url},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return found.returncode, found.stdout + found.stderr


def counted(metrics: str) -> str:
    """The metrics, once they tell of an event and of what was none; empty before."""
    samples = ("notifyd_ingested_total 1.0", "notifyd_malformed_total 1.0")
    return metrics if all(sample in metrics for sample in samples) else ""


def test_event_in_kafka_becomes_a_signed_webhook_and_a_log_line(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    found = event(uuid4())
    produce(kafka_brokers, unique_name, [found, b"garbage"])
    with Receiver() as receiver:
        settings = environment(database_url, kafka_brokers, unique_name, **with_webhook(receiver))
        daemon = start_daemon("notifyd", settings).wait_ready()
        wait_until(lambda: receiver.requests, 20, "webhook")
        [request] = receiver.requests
        assert Webhook(SECRET).verify(request.body, dict(request.headers))
        assert request.body == envelope(found)
        [line] = wait_until(lambda: daemon.events("notification"), 10, "log line")
        assert line["event_id"] == str(found.event_id)
        assert line["traceparent"] == TRACEPARENT
        [dead] = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 1)
        assert dead.value() == b"garbage"
        metrics = wait_until(lambda: counted(daemon.metrics()), 10, "both records counted")
        assert daemon.terminate() == 0
    done = fetch(database_url, "SELECT receiver FROM delivery_done ORDER BY 1")
    assert done == [("log",), ("webhook",)]
    assert fetch(database_url, "SELECT count(*) FROM delivery") == [(0,)]
    for secret in (SECRET, SECRET.removeprefix("whsec_"), "secret-secret"):
        assert secret not in daemon.text() + metrics


def test_taken_port_is_one_line_that_names_the_variable(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = environment(database_url, kafka_brokers, unique_name, METRICS_ADDR=address)
        daemon = start_daemon("notifyd", settings)
        assert daemon.wait_exit() == 2
    [line] = [line for line in daemon.text().splitlines() if not line.startswith("{")]
    assert line.startswith(f"error: METRICS_ADDR is {address}")


def test_wrong_setting_stops_the_start_with_one_line(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("notifyd", {"DATABASE_URL": "mysql://user:hidden@host/desk"})
    assert daemon.wait_exit() == 2
    [line] = daemon.text().splitlines()
    assert line.startswith("error: DATABASE_URL is malformed")
    assert "hidden" not in line


def test_receiver_that_answers_500_to_everything_holds_back_nobody(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    tickets = [uuid4() for _ in range(5)]
    events = [event(ticket_id, n) for n in (1, 2, 3) for ticket_id in tickets]
    produce(kafka_brokers, unique_name, events)

    def refuse(request: Request) -> Answer:
        return Answer(status=500, body="сломано".encode())

    with Receiver(refuse) as broken, Receiver() as sound:
        settings = environment(
            database_url,
            kafka_brokers,
            unique_name,
            NOTIFYD_WEBHOOK_URL=f"broken={broken.url},sound={sound.url}",
            NOTIFYD_WEBHOOK_SECRET=SECRET,
            NOTIFYD_MAX_ATTEMPTS="2",
        )
        daemon = start_daemon("notifyd", settings).wait_ready()
        wait_until(lambda: len(sound.requests) >= 15, 20, "15 webhooks at the sound receiver")
        dead = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 15)
        headers = headers_of(dead[0])
        assert headers["dlq_receiver"] == "webhook:broken"
        assert headers["dlq_attempts"] == "2"
        assert headers["dlq_error_class"] == "HTTPStatus"
        assert headers["dlq_error_message"] == "500 сломано"
        assert headers["dlq_original_topic"] == unique_name
        assert headers["traceparent"] == TRACEPARENT
        assert daemon.is_ready()
        wait_until(
            lambda: fetch(database_url, "SELECT count(*) FROM delivery_dead") == [(15,)], 10, "dead"
        )
        for ticket_id in tickets:
            order = [
                orjson.loads(request.body)["sequence"]
                for request in sound.requests
                if str(ticket_id) in request.body.decode()
            ]
            assert order == [1, 2, 3]
        assert len(broken.requests) == 30

        # Mended: redriven dead letters arrive.
        code, output = command(["dead"], database_url)
        assert code == 0
        assert "500 сломано" in output
        broken.answer = lambda request: Answer(status=204)
        code, output = command(["redrive", "--all"], database_url)
        assert code == 0
        assert output == "redriven: 15 of 15 dead rows\n"
        wait_until(lambda: len(broken.requests) == 45, 20, "15 redriven webhooks")
        code, output = command(["status"], database_url)
        assert code == 0
        assert "dead rows" in output
        assert daemon.terminate() == 0


def test_mails_that_wait_for_their_turn_are_not_held_against_a_slow_server(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    with Mailbox(secure=False, seconds=0.3) as mailbox:
        smtp = {
            "NOTIFYD_SMTP_URL": f"smtp+insecure://127.0.0.1:{mailbox.port}",
            "NOTIFYD_SMTP_FROM": "desk@example.org",
            "NOTIFYD_SMTP_TO": "anna@example.org",
            "NOTIFYD_SMTP_TIMEOUT": "6s",
            "NOTIFYD_SMTP_CONNECTIONS": "1",
        }
        daemon = start_daemon(
            "notifyd", environment(database_url, kafka_brokers, unique_name, **smtp)
        ).wait_ready()
        # All of them take longer than the time-out of one.
        produce(kafka_brokers, unique_name, [event(uuid4()) for _ in range(24)])
        wait_until(lambda: len(mailbox.mails) >= 24, 60, "all mails")
        assert daemon.terminate() == 0
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == len(mailbox.mails) == 24
    assert "circuit_opened" not in daemon.log.read_text()
    assert "row_rejected" not in daemon.log.read_text()


def test_mail_server_that_answers_in_latin_1_stops_nobody(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    answers = {"RCPT": b"550 Empf\xe4nger gesperrt"}
    with Mailbox(secure=False, answers=answers) as mailbox, Receiver() as receiver:
        settings = environment(
            database_url,
            kafka_brokers,
            unique_name,
            NOTIFYD_SMTP_URL=f"smtp+insecure://127.0.0.1:{mailbox.port}",
            NOTIFYD_SMTP_FROM="desk@example.org",
            NOTIFYD_SMTP_TO="anna@example.org",
            NOTIFYD_RETRY_BASE="60s",
            NOTIFYD_RETRY_CAP="60s",
            **with_webhook(receiver),
        )
        daemon = start_daemon("notifyd", settings).wait_ready()
        produce(kafka_brokers, unique_name, [event(uuid4())])
        query = "SELECT key LIKE 'smtp/%', error FROM delivery_parked"
        parked = wait_until(lambda: fetch(database_url, query), 20, "parked mail")
        # Another key, and the same receiver.
        produce(kafka_brokers, unique_name, [event(uuid4()) for _ in range(5)])
        wait_until(lambda: len(receiver.requests) >= 6, 20, "6 webhooks")
        wait_until(lambda: len(fetch(database_url, query)) == 6, 20, "6 parked mails")
        assert daemon.terminate() == 0
    assert parked == [(True, r"SMTPRecipientsRefused: 550 Empf\xe4nger gesperrt")]


def test_record_whose_header_name_is_no_utf_8_is_a_dead_letter_and_stops_nobody(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    """The library cannot make a text of it: neither of an event's, nor of what is none. By then the
    interpreter has optimised the reading of headers, and checks less than at first."""
    before, odd, sound = [event(uuid4()) for _ in range(200)], event(uuid4()), event(uuid4())
    headers = [(b"traceparent", TRACEPARENT.encode()), (b"na\xefve", b"x")]
    produce(kafka_brokers, unique_name, before)
    with Receiver() as receiver:
        settings = environment(database_url, kafka_brokers, unique_name, **with_webhook(receiver))
        daemon = start_daemon("notifyd", settings).wait_ready()
        wait_until(lambda: len(receiver.requests) >= 200, 30, "webhooks")
        for value in (envelope(odd), b"garbage"):
            produce_raw(kafka_brokers, unique_name, b"key", value, headers)
        produce(kafka_brokers, unique_name, [sound])
        dead = read_topic(kafka_brokers, f"{unique_name}.dlq", f"{unique_name}-dlq", 2)
        wait_until(lambda: len(receiver.requests) >= 201, 20, "webhook of the sound one")
        assert daemon.terminate() == 0
    arrived = {request.headers["webhook-id"] for request in receiver.requests}
    assert arrived == {str(each.event_id) for each in (*before, sound)}
    found = {message.value(): headers_of(message) for message in dead}
    assert found.keys() == {envelope(odd), b"garbage"}
    assert found[envelope(odd)]["dlq_error_message"].startswith("headers cannot be read: Unicode")
    assert "traceparent" not in found[envelope(odd)]
    assert found[b"garbage"]["dlq_error_message"].startswith("not JSON")
    assert [message.key() for message in dead] == [b"key", b"key"]


def test_unmigrated_database_is_waited_for(
    start_daemon: StartDaemon, empty_database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    settings = environment(empty_database_url, kafka_brokers, unique_name)
    daemon = start_daemon("notifyd", settings)
    ready = f"{daemon.admin_url}/readyz"

    def says_why() -> bool:
        return http_status(ready) == 503 and "servicedesk.migrate" in httpx.get(ready).text

    wait_until(says_why, 15, "readiness that names the migration")
    assert http_status(f"{daemon.admin_url}/healthz") == 200
    migrate(empty_database_url, read_migrations(MIGRATIONS), report=lambda line: None)
    daemon.wait_ready()
    produce(kafka_brokers, unique_name, [event(uuid4())])
    wait_until(lambda: daemon.events("notification"), 15, "log line")
    assert daemon.terminate() == 0


def test_restart_of_the_database_is_survived_without_a_restart_of_the_daemon(
    start_daemon: StartDaemon, own_postgres: Postgres, kafka_brokers: str, unique_name: str
) -> None:
    with Receiver() as receiver:
        settings = environment(
            own_postgres.url(), kafka_brokers, unique_name, **with_webhook(receiver)
        )
        daemon = start_daemon("notifyd", settings).wait_ready()
        produce(kafka_brokers, unique_name, [event(uuid4())])
        wait_until(lambda: len(receiver.requests) == 1, 20, "webhook before the restart")
        own_postgres.stop()
        produce(kafka_brokers, unique_name, [event(uuid4()) for _ in range(10)])
        wait_until(lambda: not daemon.is_ready(), 20, "readiness that fails")
        own_postgres.start()
        own_postgres.wait_ready()
        daemon.wait_ready(30)
        wait_until(lambda: len(receiver.requests) >= 11, 30, "webhooks after the restart")
        assert daemon.terminate() == 0
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 11


def test_sigterm_while_kafka_is_away_and_a_receiver_hangs_is_in_time(
    start_daemon: StartDaemon, database_url: str, own_kafka: Kafka, unique_name: str
) -> None:
    brokers = own_kafka.bootstrap_servers
    with Receiver() as receiver:
        receiver.answer = receiver.hang
        settings = environment(
            database_url, brokers, unique_name, SHUTDOWN_TIMEOUT="3s", **with_webhook(receiver)
        )
        daemon = start_daemon("notifyd", settings).wait_ready()
        produce(brokers, unique_name, [event(uuid4())])
        wait_until(lambda: receiver.requests, 20, "webhook under way")
        own_kafka.down()
        wait_until(lambda: not daemon.is_ready(), 20, "readiness that fails")
        # What hangs would take longer.
        assert daemon.terminate(8) == 0
    # Nobody acknowledged it, so it is still to be delivered.
    assert fetch(database_url, "SELECT receiver FROM delivery") == [("webhook",)]
