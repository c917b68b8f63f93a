"""Tickets and times as JSON, the one form that clients and events see."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from ticketd.tickets import Ticket


def timestamp(moment: datetime) -> str:
    """A UTC moment as RFC 3339 with microseconds and a Z (what servicedesk.event.rfc3339 writes,
    more cheaply: the offset is known to be +00:00)."""
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def members(ticket: Ticket) -> dict[str, Any]:
    created_at = timestamp(ticket.created_at)
    return {
        "id": ticket.id,
        "title": ticket.title,
        "description": ticket.description,
        "status": ticket.status,
        "priority": ticket.priority,
        "requester": ticket.requester,
        "assignee": ticket.assignee,
        "version": ticket.version,
        "created_at": created_at,
        # Most tickets are read as they were created, and writing a time is what costs most here.
        "updated_at": created_at
        if ticket.updated_at == ticket.created_at
        else timestamp(ticket.updated_at),
        "closed_at": None if ticket.closed_at is None else timestamp(ticket.closed_at),
    }


def ticket_json(ticket: Ticket) -> bytes:
    return orjson.dumps(members(ticket))


def page_json(tickets: Sequence[Ticket], next_cursor: str | None) -> bytes:
    return orjson.dumps(
        {"items": [members(ticket) for ticket in tickets], "next_cursor": next_cursor}
    )
