"""Whoever is compared does the same: the same create and read give the same answers and leave the
same rows. Times and ids are made anew each time and compared by their form."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg

from deploy.local.loopback import Answer, send
from servicedesk.bucket import bucket_of

BODY = {
    "title": "Не печатает принтер 🖨️ № 1",
    "description": "Горит красная лампа — «замятие»",
    "requester": "анна@example.org",
    "priority": "high",
}
WRONG = {"title": "", "priority": "вчера", "colour": "red"}
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TICKET = "SELECT * FROM tickets WHERE id = %s"
EVENTS = """
SELECT bucket, aggregate_id, sequence, event_type, headers, payload FROM outbox
WHERE aggregate_id = %s
"""


class DisagreementError(Exception):
    """A contestant does something else than the first one; the text names the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one contestant answered and wrote, without what differs from request to request."""

    create: Mapping[str, Any]
    read: Mapping[str, Any]
    missing: int
    wrong: tuple[int, tuple[str, ...]]
    row: Mapping[str, Any]
    event: Mapping[str, Any]


def answers_of(url: str, token: str, database_url: str) -> Answers:
    """Raises DisagreementError when an answer has no form at all, or OSError."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    created = send("POST", f"{url}/tickets", orjson.dumps(BODY), headers)
    if created.status != 201:
        raise DisagreementError(f"{url} answers a create with {created.status}: {created.body!r}")
    ticket_id = orjson.loads(created.body)["id"]
    read = send("GET", f"{url}/tickets/{ticket_id}", None, headers)
    missing = send("GET", f"{url}/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10", None, headers)
    wrong = send("POST", f"{url}/tickets", orjson.dumps(WRONG), headers)
    fields = sorted({error["field"] for error in orjson.loads(wrong.body).get("errors", [])})
    row, event = _rows(database_url, ticket_id)
    return Answers(
        create=_whole(created, ticket_id),
        read=_whole(read, ticket_id),
        missing=missing.status,
        wrong=(wrong.status, tuple(fields)),
        row=row,
        event=event,
    )


def require_agreement(name: str, expected: Answers, found: Answers) -> None:
    """Raises DisagreementError."""
    theirs = asdict(found)
    differing = [part for part, value in asdict(expected).items() if theirs[part] != value]
    if differing:
        texts = [f"{part}: {theirs[part]!r}, not {asdict(expected)[part]!r}" for part in differing]
        raise DisagreementError(f"{name} does not do the same: {'; '.join(texts)}")


def _whole(answer: Answer, ticket_id: str) -> dict[str, Any]:
    location = answer.headers.get("location")
    return {
        "status": answer.status,
        "type": answer.headers.get("content-type"),
        "etag": answer.headers.get("etag"),
        "location": location and location.replace(ticket_id, "{id}"),
        "body": _ticket(answer.body),
    }


def _ticket(body: bytes | str) -> dict[str, Any]:
    members: dict[str, Any] = orjson.loads(body)
    if "id" not in members:
        raise DisagreementError(f"no ticket: {members}")
    if not IDENTIFIER.fullmatch(members["id"]):
        raise DisagreementError(f"{members['id']} is not a UUIDv7")
    created = datetime.fromisoformat(members["created_at"])
    if created.microsecond % 1000 or members["updated_at"] != members["created_at"]:
        raise DisagreementError(f"created_at {created} is not the millisecond of the id")
    return members | {"id": "{id}", "created_at": "{time}", "updated_at": "{time}"}


def _rows(url: str, ticket_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        (row,) = connection.execute(TICKET, (ticket_id,)).fetchall()
        (event,) = connection.execute(EVENTS, (ticket_id,)).fetchall()
    if event["bucket"] != bucket_of(ticket_id):
        raise DisagreementError(f"bucket {event['bucket']} is not the one of {ticket_id}")
    milliseconds = round(row["created_at"].timestamp() * 1000)
    if milliseconds != int(ticket_id.replace("-", "")[:12], 16):
        raise DisagreementError(f"created_at {row['created_at']} is not the id's millisecond")
    event |= {
        "bucket": "{bucket}",
        "aggregate_id": "{id}",
        "headers": sorted(orjson.loads(event["headers"])),
        "payload": _ticket(event["payload"]),
    }
    row |= {"id": "{id}", "created_at": "{time}", "updated_at": "{time}"}
    return row, event
