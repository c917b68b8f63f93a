"""Outbox rows for tests, in memory and in the table."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import orjson
import psycopg

from servicedesk.bucket import bucket_of
from servicedesk.correlation import correlation_headers
from servicedesk.queue.row import QueuedRow, queue_key

Connection = psycopg.Connection[tuple[object, ...]]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REQUEST_ID = "req-1"


def ticket_json(ticket: UUID, version: int, *, description: str = "") -> str:
    ticket_body = {
        "id": str(ticket),
        "title": "Принтер горит 🔥",
        "description": description,
        "status": "new",
        "version": version,
    }
    return orjson.dumps(ticket_body).decode()


def outbox_row(
    *,
    row_id: int = 1,
    ticket: UUID | None = None,
    sequence: int = 1,
    payload: str | None = None,
    headers: str | None = None,
) -> QueuedRow:
    ticket = ticket or uuid4()
    key = queue_key(ticket)
    return QueuedRow(
        bucket=bucket_of(key),
        id=row_id,
        receiver="",
        sequence=sequence,
        event_id=str(uuid4()),
        event_type="ticket.created" if sequence == 1 else "ticket.updated",
        headers=correlation_headers(REQUEST_ID, TRACEPARENT).decode()
        if headers is None
        else headers,
        payload=(payload or ticket_json(ticket, sequence)).encode(),
        created_at=datetime.now(UTC),
        key=key,
    )


INSERT = """
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id
"""


def insert_row(connection: psycopg.Connection[tuple[object, ...]], row: QueuedRow) -> int:
    """Returns the row's id, which the table gives."""
    values = (
        row.bucket, row.aggregate_id, row.sequence, row.event_id, row.event_type, row.headers,
        row.payload.decode(),
    )  # fmt: skip
    found = connection.execute(INSERT, values).fetchone()
    assert found is not None
    return int(str(found[0]))


def count(connection: Connection, table: str) -> int:
    found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert found is not None
    return int(str(found[0]))
