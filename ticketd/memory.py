"""Tickets in memory: the TicketStore of a ticketd without DATABASE_URL.

There is no outbox, so no events, and the tickets vanish with the process.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import islice, takewhile
from uuid import UUID

from ticketd.errors import TicketNotFoundError
from ticketd.events import TicketEvent
from ticketd.idempotency import Kept, Key, require_same
from ticketd.representation import ticket_json
from ticketd.store import Change, Describe, Shown, Work
from ticketd.tickets import Ticket, TicketQuery


class MemoryTicketStore:
    """A TicketStore; no method waits, so each is atomic on the event loop. Keys are kept for
    `key_seconds` by the clock `now`."""

    def __init__(self, now: Callable[[], float], key_seconds: float) -> None:
        self._now = now
        self._key_seconds = key_seconds
        self._tickets: dict[UUID, Ticket] = {}
        self._ids: list[UUID] = []
        # In order of age.
        self._kept: dict[bytes, tuple[float, Kept]] = {}

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

    async def create_once(self, ticket: Ticket, event: TicketEvent, key: Key) -> UUID:
        kept = self._find(key)
        if kept is not None:
            return kept.ticket_id
        await self.create(ticket, event)
        self._keep(key, ticket.id, None)
        return ticket.id

    async def get(self, ticket_id: UUID) -> Ticket:
        ticket = self._tickets.get(ticket_id)
        if ticket is None:
            raise TicketNotFoundError(ticket_id)
        return ticket

    async def show(self, ticket_id: UUID) -> Shown:
        ticket = await self.get(ticket_id)
        return Shown(ticket.version, ticket_json(ticket))

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

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        kept = self._find(key)
        if kept is not None:
            return kept
        changed = await self.change(ticket_id, change, describe)
        self._keep(key, ticket_id, ticket_json(changed))
        return changed

    def _find(self, key: Key) -> Kept | None:
        """Raises IdempotencyKeyReusedError."""
        oldest = self._now() - self._key_seconds
        expired = list(takewhile(lambda digest: self._kept[digest][0] < oldest, self._kept))
        for digest in expired:
            del self._kept[digest]
        _, kept = self._kept.get(key.digest, (0.0, None))
        return kept and require_same(kept, key)

    def _keep(self, key: Key, ticket_id: UUID, answer: bytes | None) -> None:
        self._kept[key.digest] = (self._now(), Kept(key.fingerprint, ticket_id, answer))

    async def note_change(self, ticket_id: UUID) -> None:
        """There is no other store beside this one."""


def _matches(ticket: Ticket, query: TicketQuery) -> bool:
    return (
        (query.status is None or ticket.status == query.status)
        and (query.priority is None or ticket.priority == query.priority)
        and (query.assignee is None or ticket.assignee == query.assignee)
    )
