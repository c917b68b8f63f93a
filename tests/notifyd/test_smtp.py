"""The SMTP channel against a real server: TLS and log-in, outcomes, threads, and every alphabet."""

import asyncio
import re
import ssl
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifyd.channels.mail import compose
from notifyd.channels.smtp import MailServer, SmtpChannel
from servicedesk.event import envelope
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow, Rejected, Unreachable
from tests.notifyd.mailbox import PASSWORD, USERNAME, Mailbox, client_tls
from tests.notifyd.samples import MOMENT, TITLE, Lines, event, log_to, queued_row
from tests.support.processes import free_port

SENDER = "desk@example.org"
RECIPIENTS = ("one@example.org", "two@example.org")


def server_at(port: int, **changes: Any) -> MailServer:
    known: dict[str, Any] = {
        "host": "localhost",
        "port": port,
        "security": "starttls",
        "username": USERNAME,
        "password": PASSWORD,
    }
    return MailServer(**(known | changes))


def channel_at(
    server: MailServer,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10.0,
    lines: Lines | None = None,
) -> SmtpChannel:
    return SmtpChannel(
        server=server,
        sender=SENDER,
        recipients=RECIPIENTS,
        timeout_seconds=timeout_seconds,
        connections=2,
        tls=tls or client_tls(),
        log=log_to(lines or Lines()),
    )


def deliver(
    server: MailServer,
    *rows: QueuedRow,
    tls: ssl.SSLContext | None = None,
    timeout_seconds: float = 10.0,
    lines: Lines | None = None,
) -> Outcome:
    """The outcome of the last of the rows."""

    async def scenario() -> Outcome:
        channel = channel_at(server, tls=tls, timeout_seconds=timeout_seconds, lines=lines)
        outcomes = [await channel.deliver(row) for row in rows or (queued_row(receiver="smtp"),)]
        await channel.close()
        return outcomes[-1]

    return asyncio.run(scenario())


def part(mail: EmailMessage, subtype: str) -> str:
    body = mail.get_body((subtype,))
    assert isinstance(body, EmailMessage)
    return str(body.get_content())


def test_mail_arrives_over_starttls_with_log_in() -> None:
    row = queued_row(receiver="smtp")
    with Mailbox() as mailbox:
        assert deliver(server_at(mailbox.port), row) == Acknowledged()
    [mail] = mailbox.mails
    assert mailbox.recipients == [list(RECIPIENTS)]
    assert mail["From"] == SENDER
    assert mail["To"] == "one@example.org, two@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == f"<{row.event_id}@example.org>"
    assert mail.get_content_type() == "multipart/alternative"
    assert mail["Date"].datetime.isoformat() == "2026-03-01T12:30:00+00:00"


def test_every_alphabet_arrives_intact_in_subject_text_and_html() -> None:
    row = queued_row(receiver="smtp")
    with Mailbox() as mailbox:
        deliver(server_at(mailbox.port), row)
    [mail] = mailbox.mails
    assert mail["Subject"] == f"[ticket {str(row.aggregate_id)[-8:]}] {TITLE}"
    text, html = part(mail, "plain"), part(mail, "html")
    assert text.startswith(TITLE + "\n")
    assert "Второй этаж,\nкомната 12 <script>alert(1)</script>" in text
    assert TITLE in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_mails_of_a_ticket_form_one_thread() -> None:
    ticket_id = uuid4()
    rows = [queued_row(event(ticket_id, n), receiver="smtp") for n in (1, 2)]
    with Mailbox() as mailbox:
        deliver(server_at(mailbox.port), *rows, queued_row(receiver="smtp"))
    first, second, other = mailbox.mails
    assert first["References"] == first["In-Reply-To"] == f"<{ticket_id}@example.org>"
    assert second["References"] == first["References"]
    assert second["Subject"] == first["Subject"]
    assert second["Message-ID"] != first["Message-ID"]
    assert other["References"] != first["References"]


def test_repeat_is_the_same_mail() -> None:
    row = queued_row(receiver="smtp")
    assert compose(row, SENDER, RECIPIENTS) == compose(row, SENDER, RECIPIENTS)


@pytest.mark.parametrize("occurred_at", ["2026-03-01t12:30:00z", "2026-03-01T15:30:00+03:00"])
def test_date_is_read_as_every_rfc_3339_time_is(occurred_at: str) -> None:
    found = event(uuid4())
    payload = envelope(found).decode().replace("2026-03-01T12:30:00.000000Z", occurred_at, 1)
    mail = message_from_bytes(compose(queued_row(found, payload=payload), SENDER, RECIPIENTS))
    assert parsedate_to_datetime(mail["Date"]) == MOMENT


class Texts(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    title=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_ticket_says_the_mail_stays_one_mail(title: str, description: str) -> None:
    row = queued_row(event(uuid4(), title=title, description=description), receiver="smtp")
    content = compose(row, SENDER, RECIPIENTS)
    assert max(len(line) for line in content.split(b"\r\n")) <= 998
    mail = message_from_bytes(content, policy=default)
    assert isinstance(mail, EmailMessage)
    assert sorted(mail.keys()) == sorted([
        "From", "To", "Date", "Subject", "Message-ID", "In-Reply-To", "References",
        "Auto-Submitted", "MIME-Version", "Content-Type",
    ])  # fmt: skip
    assert mail.defects == []
    assert mail["From"] == SENDER
    # White space may be folded; everything else is kept.
    visible = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", "", title)
    assert visible in re.sub(r"\s+", "", str(mail["Subject"]))
    page = Texts()
    page.feed(part(mail, "html"))
    assert page.tags <= {"html", "head", "meta", "body", "h2", "table", "tr", "th", "td", "p"}


def test_wrong_password_is_unreachable_and_not_told() -> None:
    with Mailbox() as mailbox:
        outcome = deliver(server_at(mailbox.port, password="hidden-password"))
    assert isinstance(outcome, Unreachable)
    assert outcome.error.startswith("SMTPAuthenticationError: 535")
    assert "hidden" not in outcome.error


def test_unknown_certificate_is_unreachable() -> None:
    with Mailbox() as mailbox:
        outcome = deliver(server_at(mailbox.port), tls=ssl.create_default_context())
    assert isinstance(outcome, Unreachable)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.error
    assert mailbox.mails == []


def test_failed_log_in_leaves_no_socket_open() -> None:
    """Right after the outcome, not only when the other side has answered the farewell of TLS."""
    mine = psutil.Process()
    with Mailbox() as mailbox:

        async def open_sockets() -> list[int]:
            channel = channel_at(server_at(mailbox.port, password="wrong"))
            assert isinstance(await channel.deliver(queued_row(receiver="smtp")), Unreachable)
            for _ in range(5):
                await asyncio.sleep(0)
            ports = [each.raddr.port for each in mine.net_connections("tcp") if each.raddr]
            return [port for port in ports if port == mailbox.port]

        assert asyncio.run(open_sockets()) == []


def test_server_without_starttls_gets_neither_password_nor_mail() -> None:
    with Mailbox(secure=False) as mailbox:
        outcome = deliver(server_at(mailbox.port))
        assert isinstance(outcome, Unreachable)
        assert mailbox.mails == []
        plain = server_at(mailbox.port, security="none", username=None, password=None)
        assert deliver(plain) == Acknowledged()


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"DATA": "554 5.6.0 no"}, 554),
        ({"DATA": "451 4.3.0 later"}, 451),
        ({"MAIL": "550 5.1.0 not you"}, 550),
        ({"RCPT": "450 4.2.0 greylisted"}, 450),
        ({"RCPT": "550 5.1.1 nobody"}, 550),
    ],
)
def test_refused_mail_is_rejected(answers: dict[str, str], code: int) -> None:
    with Mailbox(answers=answers) as mailbox:
        outcome = deliver(server_at(mailbox.port))
    assert isinstance(outcome, Rejected)
    assert str(code) in outcome.error
    assert "@" not in outcome.error


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_answer_that_is_no_utf_8_stays_readable(command: str) -> None:
    """The library hands it out with lone surrogates, which no table and no letter takes."""
    with Mailbox(answers={command: b"550 Empf\xe4nger gesperrt"}) as mailbox:
        outcome = deliver(server_at(mailbox.port))
    assert isinstance(outcome, Rejected)
    assert outcome.error.endswith(r": 550 Empf\xe4nger gesperrt")


def test_closing_server_is_unreachable() -> None:
    with Mailbox(answers={"DATA": "421 4.3.2 shutting down"}) as mailbox:
        outcome = deliver(server_at(mailbox.port))
    assert isinstance(outcome, Unreachable)


def test_mail_accepted_for_one_of_two_is_not_repeated_but_logged() -> None:
    lines = Lines()
    with Mailbox(answers={"RCPT two@example.org": "550 5.1.1 nobody"}) as mailbox:
        outcome = deliver(server_at(mailbox.port), lines=lines)
    assert outcome == Acknowledged()
    assert mailbox.recipients == [["one@example.org"]]
    [line] = lines.events("mail_recipients_refused")
    assert (line["count"], line["codes"]) == (1, [550])


def test_nobody_listening_is_unreachable() -> None:
    assert isinstance(deliver(server_at(free_port())), Unreachable)


def test_silent_server_is_given_up_in_time() -> None:
    async def scenario() -> Outcome:
        left = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            await writer.wait_closed()
            left.set()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        async with server:
            channel = SmtpChannel(
                server=server_at(port), sender=SENDER, recipients=RECIPIENTS, timeout_seconds=0.4,
                connections=2, tls=client_tls(), log=log_to(Lines()),
            )  # fmt: skip
            outcome = await channel.deliver(queued_row(receiver="smtp"))
            await left.wait()
        return outcome

    assert isinstance(asyncio.run(scenario()), Unreachable)
