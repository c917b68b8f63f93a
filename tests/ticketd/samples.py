"""Tickets, events and queries for tests."""

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from servicedesk.bucket import bucket_of
from servicedesk.database import connect
from servicedesk.queue.row import queue_key
from servicedesk.wire import Connection
from ticketd.events import TicketEvent, change_event
from ticketd.identifiers import HIGHEST, LOWEST, IdentifierSource, moment_of
from ticketd.representation import ticket_json
from ticketd.store import TicketStore
from ticketd.tickets import NewTicket, Status, Ticket, TicketQuery, open_ticket

IDENTIFIERS = IdentifierSource(time.time_ns, os.urandom)
HEADERS = b'{"request_id":"r-1","traceparent":"00-1-2-00"}'

NEW = NewTicket(
    title="Заявка 🖨️",
    description="العربية и кириллица",
    priority="normal",
    requester="анна",
    assignee=None,
)


def connector(url: str, application: str = "test") -> Callable[[], Awaitable[Connection]]:
    return partial(connect, url, application=application)


def a_ticket(**members: Any) -> Ticket:
    ticket_id = IDENTIFIERS.next()
    return open_ticket(NEW, ticket_id, moment_of(ticket_id))._replace(**members)


def created(ticket: Ticket) -> TicketEvent:
    return TicketEvent(
        bucket=bucket_of(queue_key(ticket.id)),
        event_id=IDENTIFIERS.next(),
        event_type="ticket.created",
        headers=HEADERS,
        payload=ticket_json(ticket),
    )


def describe(before: Ticket, after: Ticket) -> TicketEvent:
    return change_event(IDENTIFIERS.next(), HEADERS, None, before, after)


async def add(store: TicketStore, status: Status = "new", **members: Any) -> Ticket:
    """A ticket in the store. It comes into it as a new one and is then changed to `status`."""
    ticket = a_ticket(**members)
    await store.create(ticket, created(ticket))
    if status == "new":
        return ticket
    return await store.change(
        ticket.id, lambda found: found._replace(status=status, version=2), describe
    )


def everything(**members: Any) -> TicketQuery:
    query = TicketQuery(
        status=None, priority=None, assignee=None, from_id=LOWEST, below_id=HIGHEST, limit=200
    )
    return replace(query, **members)
