"""Tickets and times as JSON, the one form that clients and events see."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from ticketd.tickets import Ticket


def timestamp(moment: datetime) -> str:
    """A UTC moment as RFC 3339 with microseconds and a Z (what servicedesk.event.rfc3339 writes,
    more cheaply: the offset is known to be +00:00)."""
    if moment.microsecond:
        return moment.isoformat()[:26] + "Z"
    return moment.isoformat()[:19] + ".000000Z"


def members(ticket: Ticket) -> dict[str, Any]:
    """For orjson with OPT_UTC_Z."""
    (
        ticket_id,
        title,
        description,
        status,
        priority,
        requester,
        assignee,
        version,
        created_at,
        updated_at,
        closed_at,
    ) = ticket
    # orjson writes a moment as `timestamp` does, and faster, unless its microseconds are zero.
    return {
        "id": ticket_id,
        "title": title,
        "description": description,
        "status": status,
        "priority": priority,
        "requester": requester,
        "assignee": assignee,
        "version": version,
        "created_at": created_at if created_at.microsecond else timestamp(created_at),
        "updated_at": updated_at if updated_at.microsecond else timestamp(updated_at),
        "closed_at": closed_at
        if closed_at is None or closed_at.microsecond
        else timestamp(closed_at),
    }


def ticket_json(ticket: Ticket) -> bytes:
    return orjson.dumps(members(ticket), option=orjson.OPT_UTC_Z)


def page_json(tickets: Sequence[Ticket], next_cursor: str | None) -> bytes:
    return orjson.dumps(
        {"items": [members(ticket) for ticket in tickets], "next_cursor": next_cursor},
        option=orjson.OPT_UTC_Z,
    )
