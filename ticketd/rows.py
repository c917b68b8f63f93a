"""Tickets as rows: the columns of every SELECT here, in their order."""

from collections.abc import Sequence
from typing import Any

from ticketd.tickets import Ticket


def ticket_of(row: Sequence[Any]) -> Ticket:
    """From id, title, description, status, priority, requester, assignee, version, created_at,
    updated_at, closed_at, which is the order of Ticket's own fields."""
    return Ticket(*row)
