"""The statements that carry many requests at once: one round trip, one commit for all of them.

Each is a transaction by itself and may be repeated after a lost connection: creations by their
ids, which were made before, changes by the version that they were made against.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ticketd.events import TicketEvent
from ticketd.lanes import Connection
from ticketd.rows import columns, outbox_columns, ticket_row
from ticketd.tickets import Ticket


@dataclass(frozen=True, slots=True)
class Creation:
    ticket: Ticket
    event: TicketEvent


@dataclass(frozen=True, slots=True)
class Write:
    """A ticket as it is to become, from the version before."""

    ticket: Ticket
    event: TicketEvent
    from_version: int


# Arrays travel in binary (%b): in text form every quote of every payload would be escaped. The
# unique index on tickets.id makes a repeat do nothing, and the outbox rows come from the inserted
# tickets, so they are not repeated either. Locks nothing but its own new rows.
CREATE_MANY = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        %b::uuid[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],
        %b::int8[], %b::timestamptz[], %b::timestamptz[], %b::timestamptz[],
        %b::int2[], %b::uuid[], %b::text[], %b::text[], %b::text[]
    ) AS row (id, title, description, status, priority, requester, assignee,
              version, created_at, updated_at, closed_at,
              bucket, event_id, event_type, headers, payload)
), created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    SELECT id, title, description, status, priority, requester, assignee,
           version, created_at, updated_at, closed_at
    FROM given
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, id, version, event_id, event_type, headers, payload
FROM given JOIN created USING (id)
"""


# The same for a request that came alone: a shorter plan, and no arrays.
CREATE = """
WITH created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, version
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT %s::smallint, id, version, %s, %s, %s, %s FROM created
"""


async def create_many(connection: Connection, items: Sequence[Creation]) -> Sequence[None]:
    """Returns after the commit of all tickets and events."""
    rows = [(*columns(item.ticket), *outbox_columns(item.ticket, item.event)) for item in items]
    if len(rows) == 1:
        await connection.execute(CREATE, rows[0])
    else:
        await connection.execute(CREATE_MANY, _arrays(rows))
    return [None] * len(items)


# Primary key of tickets, one probe an id; no lock.
GET_MANY = """
SELECT id, title, description, status, priority, requester, assignee, version,
       created_at, updated_at, closed_at
FROM tickets WHERE id = ANY(%b::uuid[])
"""


async def get_many(connection: Connection, items: Sequence[UUID]) -> Sequence[Ticket | None]:
    """Equal ids are asked for once; None where there is no such ticket."""
    cursor = connection.cursor(binary=True, row_factory=ticket_row)
    await cursor.execute(GET_MANY, (list(set(items)),))
    found: dict[UUID, Ticket] = {ticket.id: ticket for ticket in await cursor.fetchall()}
    return [found.get(ticket_id) for ticket_id in items]


# Row locks on the tickets, taken in order of their ids (whatever the plan of the UPDATE), so two
# batches never wait for each other in a circle. Compare and set on the version: the loser of a
# race changes nothing and makes no event. Primary key of tickets, one probe an id.
CHANGE_MANY = """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        %b::uuid[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],
        %b::int8[], %b::timestamptz[], %b::timestamptz[], %b::int8[],
        %b::int2[], %b::uuid[], %b::text[], %b::text[], %b::text[]
    ) AS row (id, title, description, status, priority, assignee,
              version, updated_at, closed_at, from_version,
              bucket, event_id, event_type, headers, payload)
), locked AS MATERIALIZED (
    SELECT tickets.id FROM tickets JOIN given ON given.id = tickets.id
    WHERE tickets.version = given.from_version
    ORDER BY tickets.id FOR NO KEY UPDATE OF tickets
), changed AS (
    UPDATE tickets
    SET title = given.title, description = given.description, status = given.status,
        priority = given.priority, assignee = given.assignee, version = given.version,
        updated_at = given.updated_at, closed_at = given.closed_at
    FROM given JOIN locked USING (id)
    WHERE tickets.id = given.id AND tickets.version = given.from_version
    RETURNING tickets.id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, id, version, event_id, event_type, headers, payload
FROM given JOIN changed USING (id)
RETURNING aggregate_id
"""


async def change_many(connection: Connection, items: Sequence[Write]) -> Sequence[bool | None]:
    """For each write, whether it won. No two of them may be of the same ticket."""
    rows = [
        (
            item.ticket.id,
            item.ticket.title,
            item.ticket.description,
            item.ticket.status,
            item.ticket.priority,
            item.ticket.assignee,
            item.ticket.version,
            item.ticket.updated_at,
            item.ticket.closed_at,
            item.from_version,
            *outbox_columns(item.ticket, item.event),
        )
        for item in items
    ]
    cursor = connection.cursor(binary=True)
    await cursor.execute(CHANGE_MANY, _arrays(rows))
    won = {row[0] for row in await cursor.fetchall()}
    return [item.ticket.id in won for item in items]


def _arrays(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
