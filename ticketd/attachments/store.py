"""Attachments in PostgreSQL. A change of what a ticket shows and its event are one statement and so
one transaction, in which the ticket gets its next version."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from servicedesk.wire import Wire
from ticketd.attachments import keyed, statements
from ticketd.attachments.attachment import Attachment
from ticketd.attachments.keyed import Announcement
from ticketd.attachments.statements import Added, Addition, Turn
from ticketd.batches import get_many
from ticketd.errors import (
    AttachmentNotFoundError,
    OverloadedError,
    TicketNotFoundError,
    TooManyAttachmentsError,
)
from ticketd.events import TicketEvent
from ticketd.idempotency import Kept, Key, require_same
from ticketd.keyed import find_kept
from ticketd.lanes import BatchObserver, Lanes, LaneSettings
from ticketd.store import RACE_LIMIT
from ticketd.tickets import Ticket

Found = TypeVar("Found")
Ask = Callable[[Wire], Awaitable[Any]]
# The ticket with its next version, and the attachment as it is to be.
Touch = Callable[[Ticket], Ticket]
Describe = Callable[[Ticket, Attachment], TicketEvent]


class AttachmentStore:
    """On a lane of its own, one statement at a time; `run` has to run beside it. Await the methods
    in tasks.

    Every method may raise DatabaseUnavailableError and OverloadedError.
    """

    def __init__(
        self,
        *,
        lanes: LaneSettings,
        observer: BatchObserver,
    ) -> None:
        self._lanes: Lanes[Ask, Any] = Lanes(
            settings=replace(lanes, lanes=1, most=1, in_tasks=True),
            work=_ask,
            observer=observer,
            gives_up_locks=True,
        )
        self.run = self._lanes.run

    async def add(self, addition: Addition) -> None:
        """Repeating it with the same id does nothing. Raises TicketNotFoundError and
        TooManyAttachmentsError."""
        for _ in range(RACE_LIMIT):
            outcome = await self._lanes.submit(partial(statements.add, addition=addition))
            if outcome == "added":
                return
            _require_place(addition, outcome)
        raise OverloadedError

    async def add_once(
        self, addition: Addition, announcement: Announcement, key: Key
    ) -> Announcement:
        """As `add`, with the key: what the first request with it announced, this one or an
        earlier. What fails leaves its key unused. Raises IdempotencyKeyReusedError as well."""
        ask = partial(keyed.add_keyed, addition=addition, announcement=announcement, key=key)
        for _ in range(RACE_LIMIT):
            outcome = await self._lanes.submit(ask)
            if outcome == "added":
                return announcement
            # The first request may be what took the last place.
            first = await self.find_announced(key)
            if first is not None:
                return first
            _require_place(addition, outcome)
        raise OverloadedError

    async def find_announced(self, key: Key) -> Announcement | None:
        """What the first request with this key announced. Raises IdempotencyKeyReusedError."""
        ask = partial(find_kept, items=[key.digest])
        kept: Kept | None = (await self._lanes.submit(ask))[0]
        if kept is None:
            return None
        return keyed.announcement_of(require_same(kept, key))

    async def get(self, ticket_id: UUID, attachment_id: UUID) -> Attachment:
        """In any state but `removing`. Raises AttachmentNotFoundError, and TicketNotFoundError
        when it is the ticket that is missing."""
        found = await self._find(ticket_id, attachment_id)
        if found is not None and found.state != "removing":
            return found
        await self._ticket(ticket_id)
        raise AttachmentNotFoundError(attachment_id)

    async def list_ready(self, ticket_id: UUID) -> Sequence[Attachment]:
        """The ready ones, oldest first. Raises TicketNotFoundError."""
        ask = partial(statements.list_ready, ticket_id=ticket_id)
        found: Sequence[Attachment] | None = await self._lanes.submit(ask)
        if found is None:
            raise TicketNotFoundError(ticket_id)
        return found

    async def complete(
        self, attachment: Attachment, touch: Touch, describe: Describe
    ) -> Attachment:
        """Make a pending one visible, as `attachment` has it, and return it as committed, perhaps
        by somebody else. Raises AttachmentNotFoundError when it was removed meanwhile."""
        for _ in range(RACE_LIMIT):
            turn = await self._next(attachment, touch, describe)
            if await self._lanes.submit(partial(statements.complete, turn=turn)):
                return attachment
            found = await self.get(attachment.ticket_id, attachment.id)
            if found.state == "ready":
                # Perhaps by this very statement, before its connection was lost.
                return found
        raise OverloadedError

    async def remove(
        self, ticket_id: UUID, attachment_id: UUID, touch: Touch, describe: Describe
    ) -> None:
        """Nobody sees it any more, and its object is to be deleted. Returns also when there is
        none. Raises TicketNotFoundError."""
        for _ in range(RACE_LIMIT):
            found = await self._find(ticket_id, attachment_id)
            if found is None or found.state == "removing":
                await self._ticket(ticket_id)
                return
            if found.state == "pending":
                ask = partial(statements.give_up, attachment_id=attachment_id)
                await self._lanes.submit(ask)
            else:
                turn = await self._next(found, touch, describe)
                await self._lanes.submit(partial(statements.remove, turn=turn))
        raise OverloadedError

    async def take_due(self, most: int, again_seconds: float) -> list[Attachment]:
        """Attachments whose objects are to be deleted now, marked as such; they are given out
        again after `again_seconds` unless they are forgotten."""
        ask = partial(statements.take_due, most=most, again_seconds=again_seconds)
        found: list[Attachment] = await self._lanes.submit(ask)
        return found

    async def forget(self, ids: Sequence[UUID]) -> None:
        """Their objects are gone. Where an upload may still arrive, the row stays and comes back
        from `take_due` when that is over."""
        await self._lanes.submit(partial(statements.forget, ids=ids))

    async def _find(self, ticket_id: UUID, attachment_id: UUID) -> Attachment | None:
        ask = partial(statements.find, ticket_id=ticket_id, attachment_id=attachment_id)
        found: Attachment | None = await self._lanes.submit(ask)
        return found

    async def _ticket(self, ticket_id: UUID) -> Ticket:
        found: Ticket | None = (await self._lanes.submit(partial(get_many, items=[ticket_id])))[0]
        if found is None:
            raise TicketNotFoundError(ticket_id)
        return found

    async def _next(self, attachment: Attachment, touch: Touch, describe: Describe) -> Turn:
        ticket = touch(await self._ticket(attachment.ticket_id))
        return Turn(attachment, ticket, describe(ticket, attachment))


def _require_place(addition: Addition, outcome: Added) -> None:
    if outcome == "no_ticket":
        raise TicketNotFoundError(addition.attachment.ticket_id)
    if outcome == "full":
        raise TooManyAttachmentsError(addition.most)


async def _ask(wire: Wire, items: Sequence[Ask]) -> Sequence[Any]:
    return [await ask(wire) for ask in items]
