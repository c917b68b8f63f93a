"""The ticket, its life cycle and how it changes. Free of technology.

A change is a pure function from a ticket to a ticket: the same object back means that nothing
changed, otherwise the version is one higher.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from uuid import UUID

from ticketd.errors import StaleVersionError, TransitionForbiddenError

Status = Literal["new", "in_progress", "resolved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]

STATUSES: tuple[Status, ...] = ("new", "in_progress", "resolved", "closed")
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high", "urgent")
TITLE_CHARACTERS = 200
DESCRIPTION_CHARACTERS = 5_000
PERSON_CHARACTERS = 200
REASON_CHARACTERS = 500

# Everything that a ticket may become; what is not here is forbidden.
TRANSITIONS: Mapping[Status, tuple[Status, ...]] = MappingProxyType(
    {
        "new": ("in_progress", "closed"),
        "in_progress": ("resolved", "closed"),
        "resolved": ("closed", "in_progress"),
        "closed": ("in_progress",),
    }
)


class Ticket(NamedTuple):
    """`created_at` is the millisecond of the id; the other times have microseconds. All are UTC.
    `closed_at` is set while the ticket is closed.

    A tuple, because a frozen dataclass sets each field through a function, and one is made for
    every request. The order of the fields is that of the columns of the store's SELECTs.
    """

    id: UUID
    title: str
    description: str
    status: Status
    priority: Priority
    requester: str
    assignee: str | None
    version: int
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class NewTicket(NamedTuple):
    """What a client says about a ticket that does not exist yet; every value is valid."""

    title: str
    description: str
    priority: Priority
    requester: str
    assignee: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketQuery:
    """One page of the list, newest first: the filters, and `from_id` <= id < `below_id`."""

    status: Status | None
    priority: Priority | None
    assignee: str | None
    from_id: UUID
    below_id: UUID
    limit: int


# The versions that If-Match names; None stands for any version.
Versions = frozenset[int] | None


def open_ticket(new: NewTicket, ticket_id: UUID, created_at: datetime) -> Ticket:
    return Ticket(
        id=ticket_id,
        title=new.title,
        description=new.description,
        status="new",
        priority=new.priority,
        requester=new.requester,
        assignee=new.assignee,
        version=1,
        created_at=created_at,
        updated_at=created_at,
        closed_at=None,
    )


def patch(members: Mapping[str, Any], expected: Versions, now: datetime, ticket: Ticket) -> Ticket:
    """Set the valid `members` of a merge patch. Members that are as they were change nothing.

    Raises StaleVersionError and TransitionForbiddenError.
    """
    require_version(ticket, expected)
    differing = {name: value for name, value in members.items() if getattr(ticket, name) != value}
    if not differing:
        return ticket
    if "status" in differing:
        differing |= _transition(ticket, differing["status"], _later(ticket, now))
    return _next_version(ticket, differing, now)


def close(expected: Versions, now: datetime, ticket: Ticket) -> Ticket:
    """Raises StaleVersionError, and TransitionForbiddenError also for a closed ticket."""
    require_version(ticket, expected)
    return _next_version(ticket, _transition(ticket, "closed", _later(ticket, now)), now)


def touch(now: datetime, ticket: Ticket) -> Ticket:
    """The next version of a ticket to which something of its own was added, or taken from it."""
    return _next_version(ticket, {}, now)


def require_version(ticket: Ticket, expected: Versions) -> None:
    if expected is not None and ticket.version not in expected:
        raise StaleVersionError(ticket.version)


def _transition(ticket: Ticket, status: Status, now: datetime) -> dict[str, Any]:
    allowed = TRANSITIONS[ticket.status]
    if status not in allowed:
        raise TransitionForbiddenError(ticket.status, allowed)
    return {"status": status, "closed_at": now if status == "closed" else None}


def _next_version(ticket: Ticket, members: Mapping[str, Any], now: datetime) -> Ticket:
    later = _later(ticket, now)
    return ticket._replace(**members, version=ticket.version + 1, updated_at=later)


def _later(ticket: Ticket, now: datetime) -> datetime:
    """Now, or just after the last change where the clock has stepped back."""
    return max(now, ticket.updated_at + timedelta(microseconds=1))
