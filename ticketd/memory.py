"""Tickets in memory: the TicketStore of a ticketd without DATABASE_URL.

There is no outbox, so no events, and the tickets vanish with the process.
"""

from bisect import bisect_left, insort
from itertools import islice
from uuid import UUID

from ticketd.errors import TicketNotFoundError
from ticketd.events import TicketEvent
from ticketd.store import Change, Describe, Work
from ticketd.tickets import Ticket, TicketQuery


class MemoryTicketStore:
    """A TicketStore; no method waits, so each is atomic on the event loop."""

    def __init__(self) -> None:
        self._tickets: dict[UUID, Ticket] = {}
        self._ids: list[UUID] = []

    async def open(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to stop."""

    async def check(self) -> None:
        """Always well."""

    def has_room(self, work: Work) -> bool:
        del work
        return True

    async def create(self, ticket: Ticket, event: TicketEvent) -> None:
        del event  # Nobody would read it.
        if ticket.id not in self._tickets:
            self._tickets[ticket.id] = ticket
            insort(self._ids, ticket.id)

    async def get(self, ticket_id: UUID) -> Ticket:
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            raise TicketNotFoundError(ticket_id)
        return ticket

    async def page(self, query: TicketQuery) -> list[Ticket]:
        first = bisect_left(self._ids, query.from_id)
        end = bisect_left(self._ids, query.below_id)
        newest_first = (self._tickets[self._ids[n]] for n in range(end - 1, first - 1, -1))
        return list(islice((t for t in newest_first if _matches(t, query)), query.limit))

    async def change(self, ticket_id: UUID, change: Change, describe: Describe) -> Ticket:
        del describe  # Without an outbox there is no event to describe.
        changed = change(await self.get(ticket_id))
        self._tickets[ticket_id] = changed
        return changed

    def note_change(self, ticket_id: UUID) -> None:
        """There is no other store beside this one."""


def _matches(ticket: Ticket, query: TicketQuery) -> bool:
    return (
        (query.status is None or ticket.status == query.status)
        and (query.priority is None or ticket.priority == query.priority)
        and (query.assignee is None or ticket.assignee == query.assignee)
    )
