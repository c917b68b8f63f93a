"""A TicketStore that stands before another one and passes everything on; what is done differently
is told by the classes made from it."""

from uuid import UUID

from ticketd.events import TicketEvent
from ticketd.idempotency import Kept, Key
from ticketd.store import Change, Describe, Shown, TicketStore, Work
from ticketd.tickets import Ticket, TicketQuery


class StoreBefore:
    """A TicketStore; see there."""

    def __init__(self, store: TicketStore) -> None:
        self._store = store

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def check(self) -> None:
        await self._store.check()

    def has_room(self, work: Work) -> bool:
        return self._store.has_room(work)

    async def create(self, ticket: Ticket, event: TicketEvent) -> None:
        await self._store.create(ticket, event)

    async def create_once(self, ticket: Ticket, event: TicketEvent, key: Key) -> UUID:
        return await self._store.create_once(ticket, event, key)

    async def get(self, ticket_id: UUID) -> Ticket:
        return await self._store.get(ticket_id)

    async def show(self, ticket_id: UUID) -> Shown:
        return await self._store.show(ticket_id)

    async def page(self, query: TicketQuery) -> list[Ticket]:
        return await self._store.page(query)

    async def change(self, ticket_id: UUID, change: Change, describe: Describe) -> Ticket:
        return await self._store.change(ticket_id, change, describe)

    async def note_change(self, ticket_id: UUID) -> None:
        await self._store.note_change(ticket_id)

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        return await self._store.change_once(ticket_id, change, describe, key)
