"""What happened to a ticket, as the outbox keeps it."""

from typing import NamedTuple
from uuid import UUID

import orjson

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import queue_key
from ticketd.representation import members, ticket_json
from ticketd.tickets import Ticket

CREATED = "ticket.created"
UPDATED = "ticket.updated"
CLOSED = "ticket.closed"
REOPENED = "ticket.reopened"


class TicketEvent(NamedTuple):
    """`bucket` is that of the ticket's key, `headers` the JSON of the correlation, `payload` the
    JSON of the ticket, both in UTF-8. A tuple, as Ticket is."""

    bucket: int
    event_id: UUID
    event_type: str
    headers: bytes
    payload: bytes


def change_event(
    event_id: UUID, headers: bytes, reason: str | None, before: Ticket, after: Ticket
) -> TicketEvent:
    """The event of one change. A reason for closing travels as the payload's member `reason`;
    the ticket itself does not keep it."""
    if reason is None:
        payload = ticket_json(after)
    else:
        payload = orjson.dumps(members(after) | {"reason": reason}, option=orjson.OPT_UTC_Z)
    return TicketEvent(
        bucket=bucket_of(queue_key(after.id)),
        event_id=event_id,
        event_type=change_type(before, after),
        headers=headers,
        payload=payload,
    )


def change_type(before: Ticket, after: Ticket) -> str:
    if before.status == after.status:
        return UPDATED
    if after.status == "closed":
        return CLOSED
    if after.status == "in_progress" and before.status != "new":
        return REOPENED
    return UPDATED
