"""Tickets and events as rows: the columns of the store's statements, in their order."""

from collections.abc import Callable, Sequence
from typing import Any

from psycopg import AsyncCursor

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import queue_key
from ticketd.events import TicketEvent
from ticketd.tickets import Ticket


def ticket_row(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Ticket]:
    """A row factory for the columns in the order in which every SELECT here has them."""
    return _ticket


def _ticket(row: Sequence[Any]) -> Ticket:
    return Ticket(
        id=row[0],
        title=row[1],
        description=row[2],
        status=row[3],
        priority=row[4],
        requester=row[5],
        assignee=row[6],
        version=row[7],
        created_at=row[8],
        updated_at=row[9],
        closed_at=row[10],
    )


def columns(ticket: Ticket) -> tuple[Any, ...]:
    return (
        ticket.id,
        ticket.title,
        ticket.description,
        ticket.status,
        ticket.priority,
        ticket.requester,
        ticket.assignee,
        ticket.version,
        ticket.created_at,
        ticket.updated_at,
        ticket.closed_at,
    )


def outbox_columns(ticket: Ticket, event: TicketEvent) -> tuple[Any, ...]:
    return (
        bucket_of(queue_key(ticket.id)),
        event.event_id,
        event.event_type,
        event.headers,
        event.payload,
    )
