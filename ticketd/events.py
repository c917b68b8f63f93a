"""What happened to a ticket, as the outbox keeps it."""

from dataclasses import dataclass
from uuid import UUID

import orjson

from ticketd.representation import members, ticket_json
from ticketd.tickets import Ticket

CREATED = "ticket.created"
UPDATED = "ticket.updated"
CLOSED = "ticket.closed"
REOPENED = "ticket.reopened"


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketEvent:
    """`headers` is the JSON of the correlation, `payload` the JSON of the ticket."""

    event_id: UUID
    event_type: str
    headers: str
    payload: str


def change_event(
    event_id: UUID, headers: str, reason: str | None, before: Ticket, after: Ticket
) -> TicketEvent:
    """The event of one change. A reason for closing travels as the payload's member `reason`;
    the ticket itself does not keep it."""
    if reason is None:
        payload = ticket_json(after)
    else:
        payload = orjson.dumps(members(after) | {"reason": reason})
    return TicketEvent(
        event_id=event_id,
        event_type=change_type(before, after),
        headers=headers,
        payload=payload.decode(),
    )


def change_type(before: Ticket, after: Ticket) -> str:
    if before.status == after.status:
        return UPDATED
    if after.status == "closed":
        return CLOSED
    if after.status == "in_progress" and before.status != "new":
        return REOPENED
    return UPDATED
