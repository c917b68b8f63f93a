"""The mail server as a receiver that is away, that refuses, and that is back."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.notifyd.mailbox import Mailbox
from tests.notifyd.receiver import Receiver
from tests.notifyd.samples import event, fetch, produce
from tests.notifyd.test_process import command, environment, with_webhook
from tests.pipeline.signs import sample, wait_sample
from tests.support.outages import Outage, hanging, refusing
from tests.support.processes import Daemon, wait_until

StartDaemon = Callable[[str, Mapping[str, str]], Daemon]
OPEN = 'delivery_circuit_open{receiver="%s"}'
DELIVERIES = "SELECT receiver FROM delivery"


def with_mail(port: int, **more: str) -> dict[str, str]:
    return {
        "NOTIFYD_SMTP_URL": f"smtp+insecure://127.0.0.1:{port}",
        "NOTIFYD_SMTP_FROM": "desk@example.org",
        "NOTIFYD_SMTP_TO": "anna@example.org",
        **more,
    }


@pytest.mark.parametrize("away", [refusing, hanging])
def test_without_the_mail_server_mails_wait_and_webhooks_go_on(
    start_daemon: StartDaemon,
    database_url: str,
    kafka_brokers: str,
    unique_name: str,
    away: Outage,
) -> None:
    with ExitStack() as stack:
        outage = stack.enter_context(ExitStack())
        port = outage.enter_context(away())
        receiver = stack.enter_context(Receiver())
        # One attempt: an outage that counted as one would bury events.
        more = with_mail(port, NOTIFYD_SMTP_TIMEOUT="2s", NOTIFYD_MAX_ATTEMPTS="1")
        settings = environment(
            database_url, kafka_brokers, unique_name, **with_webhook(receiver), **more
        )
        daemon = start_daemon("notifyd", settings).wait_ready(30)
        produce(kafka_brokers, unique_name, [event(uuid4())])
        wait_sample(daemon, OPEN % "smtp", 1)
        wait_until(lambda: receiver.requests, 30, "webhook")
        wait_until(lambda: fetch(database_url, DELIVERIES) == [("smtp",)], 30, "a mail that waits")
        wait_until(daemon.is_ready, 30, "readiness")
        assert [line["receiver"] for line in daemon.events("circuit_opened")] == ["smtp"]

        outage.close()
        with Mailbox(secure=False, port=port) as mailbox:
            wait_until(lambda: mailbox.mails, 60, "mail to the server that is back")
            wait_sample(daemon, OPEN % "smtp", 0)
            wait_until(lambda: fetch(database_url, DELIVERIES) == [], 30, "end of the delivery")
        assert fetch(database_url, "SELECT count(*) FROM delivery_dead") == [(0,)]


def test_mail_that_is_refused_is_given_up_and_goes_out_once_it_is_redriven(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    answers = {"DATA": "554 5.6.0 no"}
    with Mailbox(secure=False, answers=answers) as mailbox, Receiver() as receiver:
        more = with_mail(mailbox.port, NOTIFYD_MAX_ATTEMPTS="2")
        settings = environment(
            database_url, kafka_brokers, unique_name, **with_webhook(receiver), **more
        )
        daemon = start_daemon("notifyd", settings).wait_ready(30)
        produce(kafka_brokers, unique_name, [event(uuid4())])
        wait_sample(daemon, 'delivery_dead_total{receiver="smtp"}', 1)
        wait_until(lambda: receiver.requests, 30, "webhook")
        wait_sample(daemon, 'delivery_rejected_total{receiver="smtp"}', 2)
        assert [line["attempts"] for line in daemon.events("row_rejected")] == [1, 2]
        [dead] = wait_until(lambda: daemon.events("row_dead"), 30, "row_dead")
        assert dead["receiver"] == "smtp"
        assert daemon.is_ready()
        assert sample(daemon, OPEN % "smtp") == 0

        answers.clear()
        assert command(["redrive", "--all"], database_url)[0] == 0
        wait_until(lambda: mailbox.mails, 60, "redriven mail")
        wait_until(lambda: fetch(database_url, DELIVERIES) == [], 30, "end of the delivery")
