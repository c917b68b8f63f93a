"""`make demo`: a ticket is created, patched, given a file and closed on the running stack, and each
station of its events is shown with the time that passed since the request was sent.

Outbox, inbox and deliveries are read from the database, the record from Kafka at the partition and
offset that the inbox names.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TextIO
from uuid import UUID

import orjson
import psycopg
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console

from deploy.local.child import StartError
from deploy.local.config import Config
from deploy.local.directory import LocalDirectory
from deploy.local.loopback import Answer, reachable, send
from deploy.local.servers import one_line
from servicedesk.environment import Environment

PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.002
CONTENT = "08:41 красная лампа\n08:43 красная лампа\n".encode()

# ACCESS SHARE only. The outbox is nearly empty, so reading all of it needs no index.
SELECT_OUTBOX = """
SELECT bucket, id, event_id, event_type, created_at FROM outbox
WHERE aggregate_id = %s AND sequence = %s
"""
# By the index delivery_done_delivered: what was delivered since the request was sent.
SELECT_EVENT = """
SELECT event_id FROM delivery_done
WHERE delivered_at >= %s AND aggregate_id = %s AND sequence = %s LIMIT 1
"""
# By the primary key.
SELECT_INBOX = 'SELECT topic, partition, "offset", received_at FROM inbox WHERE event_id = %s'
# By the primary key of delivery_done; `delivery` is nearly empty.
SELECT_DELIVERIES = """
SELECT receiver, delivered_at FROM delivery_done WHERE event_id = %(event)s
UNION ALL
SELECT receiver, NULL FROM delivery WHERE event_id = %(event)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One request of the demo. `started_at` is UTC, just before it was sent."""

    title: str
    answer: Answer
    started_at: datetime
    seconds: float

    @property
    def ticket(self) -> dict[str, Any]:
        """Or what else the answer says."""
        found: dict[str, Any] = orjson.loads(self.answer.body)
        return found


def demo(values: Mapping[str, str], out: TextIO) -> int:
    """Raises StartError when no stack runs or an event does not arrive."""
    config = Config.from_environment(values)
    directory = LocalDirectory(config.directory)
    if not directory.is_taken() or not directory.settings.exists():
        raise StartError(f"no stack runs in {directory.path}; start it first: make up")
    settings = directory.read_settings()
    console = Console(file=out, highlight=False, soft_wrap=True)
    try:
        with psycopg.connect(settings["DATABASE_URL"], autocommit=True) as database:
            Demo(settings, database, console).run()
    except (psycopg.Error, OSError) as error:
        raise StartError(f"the demo broke off: {one_line(error)}") from error
    return 0


class Demo:
    def __init__(
        self,
        settings: Mapping[str, str],
        database: psycopg.Connection[tuple[Any, ...]],
        console: Console,
    ) -> None:
        address = reachable(Environment(settings).address("HTTP_ADDR", ""))
        self._url = f"http://{address}/tickets"
        self._brokers = settings["KAFKA_BROKERS"]
        self._has_attachments = bool(settings.get("S3_BUCKET"))
        self._database = database
        self._console = console

    def run(self) -> None:
        created = self._request(
            "POST /tickets",
            "POST",
            self._url,
            {
                "title": "Принтер на третьем этаже не печатает 🖨️",
                "description": "Горит красная лампа, бумага есть.",
                "requester": "anna@example.org",
                "priority": "high",
            },
        )
        self._follow(created)
        one = f"{self._url}/{created.ticket['id']}"
        change = {"status": "in_progress", "assignee": "boris@example.org"}
        patched = self._request(
            "PATCH /tickets/{id}",
            "PATCH",
            one,
            change,
            {"Content-Type": "application/merge-patch+json", **_if_match(created)},
        )
        self._follow(patched)
        before = patched
        if self._has_attachments:
            before = self._attach(one)
            self._follow(before)
        reason = {"reason": "Заменили картридж"}
        closed = self._request(
            "POST /tickets/{id}/close", "POST", f"{one}/close", reason, _if_match(before)
        )
        self._follow(closed)

    def _attach(self, ticket_url: str) -> Step:
        """The step of the completion, which makes the event; its answer is the ticket after it."""
        url = f"{ticket_url}/attachments"
        announcement = {
            "name": "журнал ошибок 🖨️.txt",
            "content_type": "text/plain",
            "size": len(CONTENT),
            "sha256": sha256(CONTENT).hexdigest(),
        }
        announced = self._request("POST /tickets/{id}/attachments", "POST", url, announcement)
        upload = announced.ticket["upload"]
        send(upload["method"], upload["url"], CONTENT, upload["headers"])
        one = f"{url}/{announced.ticket['attachment']['id']}"
        title = f"PUT {len(CONTENT)} bytes to S3, POST /tickets/{{id}}/attachments/…/complete"
        completed = self._request(title, "POST", f"{one}/complete", {})
        return replace(completed, answer=send("GET", ticket_url))

    def _request(
        self,
        title: str,
        method: str,
        url: str,
        body: Mapping[str, object],
        headers: Mapping[str, str] | None = None,
    ) -> Step:
        started_at, clock = datetime.now(UTC), time.monotonic()
        named = {"Content-Type": "application/json", **(headers or {})}
        answer = send(method, url, orjson.dumps(body), named)
        seconds = time.monotonic() - clock
        if answer.status not in {200, 201}:
            problem = answer.body.decode(errors="replace")
            raise StartError(f"{method} {url} answered {answer.status}: {problem}")
        return Step(title=title, answer=answer, started_at=started_at, seconds=seconds)

    def _follow(self, step: Step) -> None:
        """Find the event of one request at every station and print where it was, and when."""
        ticket = step.ticket
        identity = (UUID(ticket["id"]), ticket["version"])
        row = self._database.execute(SELECT_OUTBOX, identity).fetchone()
        self._console.print(
            f"\n[bold]{step.title}[/] → {step.answer.status}, ticket {ticket['id']}, "
            f"version {ticket['version']}, {ticket['status']}, in {step.seconds * 1000:.1f} ms"
        )
        event = row[2] if row else self._wait(SELECT_EVENT, (step.started_at, *identity), step)[0]
        if row:
            self._line(step, "outbox", row[4], f"bucket {row[0]}, id {row[1]}, {row[3]}")
        else:
            self._line(step, "outbox", None, "relayd has taken the row and deleted it already")
        self._line(step, "", None, f"event {event}")
        topic, partition, offset, received_at = self._wait(SELECT_INBOX, (event,), step)
        sent_at, headers = self._record(topic, partition, offset)
        place = f"{topic}, partition {partition}, offset {offset}, {headers}"
        self._line(step, "kafka", sent_at, place)
        self._line(step, "inbox", received_at, "taken in by notifyd, deliveries queued")
        for receiver, delivered_at in self._deliveries(event):
            self._line(step, "delivery", delivered_at, f"acknowledged by {receiver}")

    def _wait(self, query: str, values: tuple[object, ...], step: Step) -> tuple[Any, ...]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            row = self._database.execute(query, values).fetchone()
            if row is not None:
                return row
            time.sleep(POLL_SECONDS)
        raise StartError(
            f"the event of {step.title} did not arrive within {PATIENCE_SECONDS:g} s; "
            "the logs in .local/logs say why"
        )

    def _deliveries(self, event: UUID) -> list[tuple[str, datetime | None]]:
        """All receivers of the event; a time that is None means: not acknowledged in time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            rows = self._database.execute(SELECT_DELIVERIES, {"event": event}).fetchall()
            waiting = [receiver for receiver, delivered_at in rows if delivered_at is None]
            if (rows and not waiting) or time.monotonic() > deadline:
                return sorted(rows, key=lambda row: (row[1] is None, row[1]))
            time.sleep(POLL_SECONDS)

    def _record(self, topic: str, partition: int, offset: int) -> tuple[datetime | None, str]:
        """The record's own time stamp and its CloudEvents headers."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._brokers,
                "group.id": "demo",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        consumer.assign([TopicPartition(topic, partition, offset)])
        try:
            record = consumer.poll(PATIENCE_SECONDS)
        finally:
            consumer.close()
        if record is None or record.error() is not None:
            return None, "(the record could not be read)"
        sent_at = datetime.fromtimestamp(record.timestamp()[1] / 1000, UTC)
        named = dict(record.headers() or [])
        found = named.get("ce_type") or b"?"
        return sent_at, f"ce_type {found.decode() if isinstance(found, bytes) else found}"

    def _line(self, step: Step, station: str, moment: datetime | None, text: str) -> None:
        after = (
            f"{(moment - step.started_at) / timedelta(milliseconds=1):+9.1f} ms" if moment else ""
        )
        self._console.print(f"  {station:<9}{after:>13}  {text}", markup=False)


def _if_match(step: Step) -> dict[str, str]:
    etag = step.answer.headers.get("etag")
    return {"If-Match": etag} if etag else {}
