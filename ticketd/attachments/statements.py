"""The statements on attachments. Each is a transaction by itself, and repeating it after a lost
connection does no harm. Who changes a ticket locks its row first.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from psycopg.pq.abc import PGresult

from servicedesk import binary
from servicedesk.wire import Statement, Wire
from ticketd.attachments.attachment import Attachment
from ticketd.events import TicketEvent
from ticketd.tickets import Ticket


class Addition(NamedTuple):
    """An attachment to be uploaded, as one of at most `most` of its ticket. `late_seconds` from
    now its upload has come or will not come any more."""

    attachment: Attachment
    most: int
    late_seconds: float


Added = Literal["added", "no_ticket", "full", "outrun"]


class Turn(NamedTuple):
    """A ready attachment, or one that was ready and is removed, with the ticket's new version."""

    attachment: Attachment
    ticket: Ticket
    event: TicketEvent


# The lowest free place is taken; who wants the same one at the same time goes without a row and
# tries again (unique index on ticket_id and slot, which is also how the free ones are found). The
# foreign key takes KEY SHARE on the ticket, which no change of a ticket waits for.
ADD = Statement(
    "attachment_add",
    """
WITH ticket AS (
    SELECT id FROM tickets WHERE id = $2::uuid
), free AS (
    SELECT place FROM generate_series(1, $8::int8) AS place
    WHERE NOT EXISTS (
        SELECT FROM attachments WHERE ticket_id = $2::uuid AND slot = place
    )
    ORDER BY place LIMIT 1
), added AS (
    INSERT INTO attachments (id, ticket_id, slot, state, name, content_type, size, sha256,
                             created_at, late_until, sweep_at)
    SELECT $1::uuid, ticket.id, free.place, 'pending', $3::text, $4::text, $5::int8, $6::bytea,
           $7::timestamptz, now() + $9::int8 * interval '1 millisecond',
           now() + $9::int8 * interval '1 millisecond'
    FROM ticket, free
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT EXISTS (SELECT FROM ticket), EXISTS (SELECT FROM free),
       EXISTS (SELECT FROM added) OR EXISTS (SELECT FROM attachments WHERE id = $1::uuid)
""",
)


async def add(wire: Wire, addition: Addition) -> Added:
    return outcome_of(wire, await wire.run(ADD, values_of(addition)))


def values_of(addition: Addition) -> list[bytes | None]:
    """The parameters $1 to $9 of a statement that adds it."""
    attachment = addition.attachment
    return [
        attachment.id.bytes,
        attachment.ticket_id.bytes,
        binary.text(attachment.name),
        binary.text(attachment.content_type),
        binary.int8(attachment.size),
        attachment.sha256,
        binary.timestamptz(attachment.created_at),
        binary.int8(addition.most),
        binary.int8(round(addition.late_seconds * 1000)),
    ]


def outcome_of(wire: Wire, result: PGresult) -> Added:
    ((has_ticket, has_place, is_added),) = wire.rows(result, tuple)
    if is_added:
        return "added"
    if not has_ticket:
        return "no_ticket"
    return "outrun" if has_place else "full"


# Primary key of attachments; no lock.
FIND = Statement(
    "attachment_find",
    """
SELECT id, ticket_id, state, name, content_type, size, sha256, created_at, completed_at
FROM attachments WHERE id = $1::uuid AND ticket_id = $2::uuid
""",
)


async def find(wire: Wire, ticket_id: UUID, attachment_id: UUID) -> Attachment | None:
    result = await wire.run(FIND, [attachment_id.bytes, ticket_id.bytes])
    found = wire.rows(result, attachment_of)
    return found[0] if found else None


# By the index on ticket_id and slot, as many as a ticket may have; the join tells a ticket without
# attachments from one that is not there. No lock.
LIST = Statement(
    "attachment_list",
    """
SELECT attachments.id, ticket_id, state, name, content_type, size, sha256,
       attachments.created_at, completed_at
FROM tickets LEFT JOIN attachments
     ON attachments.ticket_id = tickets.id AND slot IS NOT NULL AND state = 'ready'
WHERE tickets.id = $1::uuid
ORDER BY attachments.id
""",
)


async def list_ready(wire: Wire, ticket_id: UUID) -> list[Attachment] | None:
    """In order of their ids; None when there is no such ticket."""
    found: list[Attachment] = wire.rows(await wire.run(LIST, [ticket_id.bytes]), attachment_of)
    return [each for each in found if each.id is not None] if found else None


# The row lock on the ticket first, then that on the attachment, as everywhere. Compare and set on
# the ticket's version and on the attachment's state: the loser of a race changes nothing and makes
# no event. Primary keys of both.
COMPLETE = Statement(
    "attachment_complete",
    """
WITH locked AS MATERIALIZED (
    SELECT id FROM tickets WHERE id = $2::uuid AND version = $3::int8 - 1 FOR NO KEY UPDATE
), turned AS (
    UPDATE attachments SET state = 'ready', completed_at = $10::timestamptz, sweep_at = NULL
    FROM locked
    WHERE attachments.id = $1::uuid AND ticket_id = locked.id AND state = 'pending'
    RETURNING ticket_id
), changed AS (
    UPDATE tickets SET version = $3::int8, updated_at = $4::timestamptz
    FROM turned WHERE tickets.id = ticket_id
    RETURNING tickets.id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT $5::int2, id, $3::int8, $6::uuid, $7::text, $8::text, $9::text FROM changed
RETURNING aggregate_id
""",
)


async def complete(wire: Wire, turn: Turn) -> bool:
    """Whether it was done by this statement."""
    completed_at = binary.timestamptz(turn.attachment.completed_at)
    result = await wire.run(COMPLETE, [*_turn(turn), completed_at])
    return bool(wire.rows(result, tuple))


# As above, for one that was ready. Its object is due to be deleted at once.
REMOVE = Statement(
    "attachment_remove",
    """
WITH locked AS MATERIALIZED (
    SELECT id FROM tickets WHERE id = $2::uuid AND version = $3::int8 - 1 FOR NO KEY UPDATE
), turned AS (
    UPDATE attachments SET state = 'removing', slot = NULL, sweep_at = now()
    FROM locked
    WHERE attachments.id = $1::uuid AND ticket_id = locked.id AND state = 'ready'
    RETURNING ticket_id
), changed AS (
    UPDATE tickets SET version = $3::int8, updated_at = $4::timestamptz
    FROM turned WHERE tickets.id = ticket_id
    RETURNING tickets.id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT $5::int2, id, $3::int8, $6::uuid, $7::text, $8::text, $9::text FROM changed
RETURNING aggregate_id
""",
)


async def remove(wire: Wire, turn: Turn) -> bool:
    """Whether it was done by this statement."""
    return bool(wire.rows(await wire.run(REMOVE, _turn(turn)), tuple))


def _turn(turn: Turn) -> list[bytes | None]:
    attachment, ticket, event = turn
    return [
        attachment.id.bytes,
        ticket.id.bytes,
        binary.int8(ticket.version),
        binary.timestamptz(ticket.updated_at),
        binary.int2(event.bucket),
        event.event_id.bytes,
        binary.text(event.event_type),
        event.headers,
        event.payload,
    ]


# Nobody has seen it, so there is nothing to tell. A row lock on the attachment alone.
GIVE_UP = Statement(
    "attachment_give_up",
    """
UPDATE attachments SET state = 'removing', slot = NULL, sweep_at = now()
WHERE id = $1::uuid AND state = 'pending'
""",
)


async def give_up(wire: Wire, attachment_id: UUID) -> None:
    """Remove what was never completed."""
    await wire.run(GIVE_UP, [attachment_id.bytes])


# The index on sweep_at, oldest first; SKIP LOCKED shares the work between workers. What is taken is
# due again after a while: whoever took it may have died. From here on it cannot be completed.
TAKE_DUE = Statement(
    "attachment_take_due",
    """
WITH due AS MATERIALIZED (
    SELECT id FROM attachments WHERE sweep_at <= now()
    ORDER BY sweep_at LIMIT $1::int8 FOR UPDATE SKIP LOCKED
)
UPDATE attachments
SET state = 'removing', slot = NULL, sweep_at = now() + $2::int8 * interval '1 millisecond'
FROM due WHERE attachments.id = due.id
RETURNING attachments.id, ticket_id, state, name, content_type, size, sha256, created_at,
          completed_at
""",
)


async def take_due(wire: Wire, most: int, again_seconds: float) -> list[Attachment]:
    """Those whose objects are to be deleted now."""
    again = binary.int8(round(again_seconds * 1000))
    return wire.rows(await wire.run(TAKE_DUE, [binary.int8(most), again]), attachment_of)


# After their objects are gone. A row stays while an upload that was begun may still arrive, and is
# then looked at once more. Primary key.
FORGET = Statement(
    "attachment_forget",
    """
WITH forgotten AS (
    DELETE FROM attachments
    WHERE id = ANY($1::uuid[]) AND state = 'removing' AND late_until <= now()
)
UPDATE attachments SET sweep_at = late_until
WHERE id = ANY($1::uuid[]) AND state = 'removing' AND late_until > now()
""",
)


async def forget(wire: Wire, ids: Sequence[UUID]) -> None:
    await wire.run(FORGET, [binary.uuids(ids)])


def attachment_of(row: Sequence[Any]) -> Attachment:
    """From the columns of every SELECT here, which are in the order of Attachment's fields."""
    return Attachment(*row)
