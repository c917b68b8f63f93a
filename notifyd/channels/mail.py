"""Composing the mail of an event: plain text and HTML, UTF-8, one thread a ticket.

Sources: RFC 5322, 3.6.4 (threading), RFC 3834, 5 (Auto-Submitted), RFC 2047 (encoded words).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from email.header import Header
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import format_datetime
from html import escape
from typing import Any

import orjson

from notifyd.channels.channel import single_line
from servicedesk.queue.row import QueuedRow

SUBJECT_CHARACTERS = 200
FIELDS = ("status", "priority", "requester", "assignee", "version", "updated_at")


def compose(row: QueuedRow, sender: str, recipients: Sequence[str]) -> bytes:
    """The event's mail with CRLF line ends, the same at every attempt.

    Raises KeyError or ValueError when the envelope is not one.
    """
    envelope = orjson.loads(row.payload)
    ticket: Mapping[str, Any] = envelope["payload"]
    title = single_line(str(ticket.get("title", "")))[:SUBJECT_CHARACTERS]
    description = str(ticket.get("description", ""))
    lines = _lines(row, ticket)
    # The older API, because EmailMessage of Python 3.11 drops spaces between two encoded words.
    message = MIMEMultipart("alternative", boundary=f"part-{row.event_id}")
    for name, value in _headers(row, envelope["occurred_at"], title, sender, recipients):
        message[name] = value  # type: ignore[assignment] # the stubs leave Header out
    message.attach(MIMEText(_plain(title, lines, description), "plain", "utf-8"))
    message.attach(MIMEText(_html(title, lines, description), "html", "utf-8"))
    return message.as_bytes(policy=compat32.clone(linesep="\r\n"))


def _headers(
    row: QueuedRow, occurred_at: str, title: str, sender: str, recipients: Sequence[str]
) -> list[tuple[str, str | Header]]:
    domain = sender.rpartition("@")[2]
    # No mail has the id of the ticket itself; it is the root that all mails of a ticket share.
    thread = f"<{row.aggregate_id}@{domain}>"
    # Without the event type: some mail programs part a thread whose subject changes.
    subject = f"[ticket {str(row.aggregate_id)[-8:]}] {title}"
    return [
        ("From", sender),
        ("To", ", ".join(recipients)),
        # RFC 3339 also takes a small t and z, which fromisoformat does not.
        ("Date", format_datetime(datetime.fromisoformat(occurred_at.upper()))),
        ("Subject", Header(subject, "utf-8")),
        ("Message-ID", f"<{row.event_id}@{domain}>"),
        ("In-Reply-To", thread),
        ("References", thread),
        ("Auto-Submitted", "auto-generated"),
    ]


def _lines(row: QueuedRow, ticket: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = [(name, ticket[name]) for name in FIELDS if ticket.get(name) is not None]
    return [
        ("event", row.event_type),
        ("ticket", str(row.aggregate_id)),
        *((name, single_line(str(value))) for name, value in known),
    ]


def _plain(title: str, lines: Sequence[tuple[str, str]], description: str) -> str:
    table = "\n".join(f"{name}: {value}" for name, value in lines)
    return f"{title}\n\n{table}\n\n{description}\n"


def _html(title: str, lines: Sequence[tuple[str, str]], description: str) -> str:
    rows = "".join(
        f'<tr><th align="left">{escape(name)}</th><td dir="auto">{escape(value)}</td></tr>'
        for name, value in lines
    )
    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8"></head><body>'
        f'<h2 dir="auto">{escape(title)}</h2><table>{rows}</table>'
        f'<p dir="auto" style="white-space: pre-wrap">{escape(description)}</p></body></html>\n'
    )
