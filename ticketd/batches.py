"""The statements that carry many requests at once: one round trip, one commit for all of them.

Each is a transaction by itself and may be repeated after a lost connection: creations by their
ids, which were made before, changes by the version that they were made against.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from servicedesk import binary
from servicedesk.wire import Statement, Wire
from ticketd.events import TicketEvent
from ticketd.idempotency import Key
from ticketd.rows import ticket_of
from ticketd.tickets import Ticket


class Creation(NamedTuple):
    """A ticket as `open_ticket` makes it: new, at version 1, changed when it was created."""

    ticket: Ticket
    event: TicketEvent


class Write(NamedTuple):
    """A ticket as it is to become, from the version before. With a `key` it goes by the statement
    in keyed.py."""

    ticket: Ticket
    event: TicketEvent
    from_version: int
    key: Key | None = None


# The unique index on tickets.id makes a repeat do nothing, and the outbox rows come from the
# inserted tickets, so they are not repeated either. Locks nothing but its own new rows.
CREATE_MANY = Statement(
    "create_many",
    """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
        $8::int2[], $9::uuid[], $10::text[], $11::text[], $12::text[]
    ) AS row (id, title, description, priority, requester, assignee, created_at,
              bucket, event_id, event_type, headers, payload)
), created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    SELECT id, title, description, 'new', priority, requester, assignee,
           1, created_at, created_at, NULL
    FROM given
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, id, 1, event_id, event_type, headers, payload
FROM given JOIN created USING (id)
""",
)

# The same for a request that came alone: a shorter plan, and no arrays.
CREATE = Statement(
    "create",
    """
WITH created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    VALUES ($1::uuid, $2::text, $3::text, 'new', $4::text, $5::text, $6::text,
            1, $7::timestamptz, $7::timestamptz, NULL)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT $8::int2, id, 1, $9::uuid, $10::text, $11::text, $12::text FROM created
""",
)


async def create_many(wire: Wire, items: Sequence[Creation]) -> Sequence[None]:
    """Returns after the commit of all tickets and events."""
    if len(items) == 1:
        await wire.run(CREATE, creation(items[0].ticket, items[0].event))
    else:
        tickets, events = [item.ticket for item in items], [item.event for item in items]
        await wire.run(CREATE_MANY, creations(tickets, events))
    return [None] * len(items)


def creation(ticket: Ticket, event: TicketEvent) -> list[bytes | None]:
    """The parameters $1 to $12 of CREATE."""
    return [
        ticket.id.bytes,
        binary.text(ticket.title),
        binary.text(ticket.description),
        binary.text(ticket.priority),
        binary.text(ticket.requester),
        binary.text(ticket.assignee),
        binary.timestamptz(ticket.created_at),
        binary.int2(event.bucket),
        event.event_id.bytes,
        binary.text(event.event_type),
        event.headers,
        event.payload,
    ]


def creations(tickets: Sequence[Ticket], events: Sequence[TicketEvent]) -> list[bytes]:
    """The parameters $1 to $12 of CREATE_MANY."""
    return [
        binary.uuids([ticket.id for ticket in tickets]),
        binary.texts([ticket.title for ticket in tickets]),
        binary.texts([ticket.description for ticket in tickets]),
        binary.texts([ticket.priority for ticket in tickets]),
        binary.texts([ticket.requester for ticket in tickets]),
        binary.texts([ticket.assignee for ticket in tickets]),
        binary.timestamptzs([ticket.created_at for ticket in tickets]),
        *_outbox(events),
    ]


def _outbox(events: Sequence[TicketEvent]) -> list[bytes]:
    return [
        binary.int2s([event.bucket for event in events]),
        binary.uuids([event.event_id for event in events]),
        binary.texts([event.event_type for event in events]),
        binary.utf8s([event.headers for event in events]),
        binary.utf8s([event.payload for event in events]),
    ]


# Primary key of tickets, one probe an id; no lock.
GET_MANY = Statement(
    "get_many",
    """
SELECT id, title, description, status, priority, requester, assignee, version,
       created_at, updated_at, closed_at
FROM tickets WHERE id = ANY($1::uuid[])
""",
)


async def get_many(wire: Wire, items: Sequence[UUID]) -> Sequence[Ticket | None]:
    """Equal ids are asked for once; None where there is no such ticket."""
    result = await wire.run(GET_MANY, [binary.uuids(list(set(items)))])
    found = {ticket.id: ticket for ticket in wire.rows(result, ticket_of)}
    return [found.get(ticket_id) for ticket_id in items]


# Row locks on the tickets, taken in order of their ids (whatever the plan of the UPDATE), so two
# batches never wait for each other in a circle. Compare and set on the version: the loser of a
# race changes nothing and makes no event. Primary key of tickets, one probe an id.
CHANGE_MANY = Statement(
    "change_many",
    """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::int8[], $8::timestamptz[], $9::timestamptz[], $10::int8[],
        $11::int2[], $12::uuid[], $13::text[], $14::text[], $15::text[]
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
""",
)


async def change_many(wire: Wire, items: Sequence[Write]) -> Sequence[bool | None]:
    """For each write, whether it won. No two of them may be of the same ticket."""
    result = await wire.run(CHANGE_MANY, changes(items))
    won = set(wire.rows(result, lambda row: row[0]))
    return [item.ticket.id in won for item in items]


def changes(items: Sequence[Write]) -> list[bytes]:
    """The parameters $1 to $15 of CHANGE_MANY."""
    tickets = [item.ticket for item in items]
    return [
        binary.uuids([ticket.id for ticket in tickets]),
        binary.texts([ticket.title for ticket in tickets]),
        binary.texts([ticket.description for ticket in tickets]),
        binary.texts([ticket.status for ticket in tickets]),
        binary.texts([ticket.priority for ticket in tickets]),
        binary.texts([ticket.assignee for ticket in tickets]),
        binary.int8s([ticket.version for ticket in tickets]),
        binary.timestamptzs([ticket.updated_at for ticket in tickets]),
        binary.timestamptzs([ticket.closed_at for ticket in tickets]),
        binary.int8s([item.from_version for item in items]),
        *_outbox([item.event for item in items]),
    ]


# The row lock of a change, taken where nobody is in the way and given back at the end of the
# statement. Primary key of tickets, one probe an id.
NOT_HELD = Statement(
    "not_held",
    """
SELECT id FROM tickets WHERE id = ANY($1::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
""",
)


async def not_held(wire: Wire, items: Sequence[Write]) -> Sequence[bool]:
    """For each write, whether its ticket could be locked at once."""
    result = await wire.run(NOT_HELD, [binary.uuids([item.ticket.id for item in items])])
    found = set(wire.rows(result, lambda row: row[0]))
    return [item.ticket.id in found for item in items]
