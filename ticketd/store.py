"""Tickets in PostgreSQL, and the interface that both stores have.

A change and its event are one statement and so one transaction: both are committed, or neither.
A connection that dies around a commit never leads to a second ticket or a second event.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from servicedesk.database import AWAY, require_schema
from servicedesk.wire import Connection
from ticketd.batches import Creation, Write, create_many, get_many, not_held
from ticketd.errors import (
    DatabaseUnavailableError,
    OverloadedError,
    StaleVersionError,
    TicketNotFoundError,
    TransitionForbiddenError,
)
from ticketd.events import TicketEvent
from ticketd.idempotency import Kept, Key, require_same
from ticketd.keyed import KeyedCreation, change_perhaps_keyed, create_keyed, find_kept
from ticketd.lanes import BatchObserver, Lanes, LaneSettings
from ticketd.pages import pages
from ticketd.representation import ticket_json
from ticketd.tickets import Ticket, TicketQuery

Change = Callable[[Ticket], Ticket]
Describe = Callable[[Ticket, Ticket], TicketEvent]

# What a request asks of the store first.
Work = Literal["create", "read", "list", "change"]

# Refusals that say how a ticket is now, and may come of the very request that is repeated.
REFUSED_BY_STATE = (StaleVersionError, TransitionForbiddenError, TicketNotFoundError)

# After so many lost races in a row a ticket is a hot spot and the client is asked to come back.
RACE_LIMIT = 20


class Shown(NamedTuple):
    """A ticket as clients see it: its version and its JSON."""

    version: int
    body: bytes


class TicketStore(Protocol):
    """Where tickets are kept. Every method may raise DatabaseUnavailableError, and all but
    `open`, `close` and `check` OverloadedError."""

    async def open(self) -> None:
        """Start without waiting for the database."""

    async def close(self) -> None: ...

    async def check(self) -> None:
        """Raises DatabaseUnavailableError, and SchemaError below the needed schema."""

    def has_room(self, work: Work) -> bool:
        """Whether more of this work would be taken now, so that what would be refused anyway is
        refused before anything else is done for it."""

    async def create(self, ticket: Ticket, event: TicketEvent) -> None:
        """Returns after the commit of both. Repeating it with the same ids does nothing."""

    async def create_once(self, ticket: Ticket, event: TicketEvent, key: Key) -> UUID:
        """The id of the ticket that the first request with this key made: this one, or an earlier.

        Returns after the commit of it, its event and the key. Raises IdempotencyKeyReusedError.
        """

    async def get(self, ticket_id: UUID) -> Ticket:
        """Raises TicketNotFoundError."""

    async def show(self, ticket_id: UUID) -> Shown:
        """As `get`, for showing only: it may come out of a cache, and is never older than a change
        that was answered."""

    async def page(self, query: TicketQuery) -> list[Ticket]:
        """At most `query.limit` tickets, newest first."""

    async def change(self, ticket_id: UUID, change: Change, describe: Describe) -> Ticket:
        """Apply a change to the ticket as it is now and return it as committed.

        `change` may be called again with a newer ticket when another change came between; what
        it raises rises from here. When it returns its argument, nothing is written. `describe`
        gets the ticket before and after. Raises TicketNotFoundError.
        """

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        """As `change` for the first request with this key, whose ticket's JSON is kept and found
        by the others. `change` never returns its argument. A request that fails leaves its key
        unused. Raises IdempotencyKeyReusedError.
        """

    async def note_change(self, ticket_id: UUID) -> None:
        """Another store has written a version of the ticket, and its event, or perhaps has; to be
        awaited before that is answered."""


class PostgresTicketStore:
    """A TicketStore on lanes, `list_lanes` of them for lists. `signal` is called after each commit
    that made an event. `check` has a connection of its own, so that busy lanes do not look like a
    database that is away. `run` has to run beside it."""

    def __init__(
        self,
        *,
        lanes: LaneSettings,
        list_lanes: int,
        signal: Callable[[], None],
        observe: Callable[[str], BatchObserver],
        count_error: Callable[[str], None],
    ) -> None:
        self._connect = lanes.connect
        self._watch: Connection | None = None
        self._signal = signal
        self._count_error = count_error
        self._creations = Lanes(settings=lanes, work=create_many, observer=observe("create"))
        # Their own lanes, so that requests without a key do not pay for those with one.
        self._keyed = Lanes(settings=lanes, work=create_keyed, observer=observe("create_keyed"))
        self._kept = Lanes(settings=lanes, work=find_kept, observer=observe("find_key"))
        self._reads = Lanes(settings=lanes, work=get_many, observer=observe("read"))
        self._pages = Lanes(
            settings=replace(lanes, lanes=list_lanes, most=1), work=pages, observer=observe("list")
        )
        # One queue a lane: changes of one ticket keep to one lane and so to their order.
        self._writes = [
            Lanes[Write, bool | None](
                settings=replace(lanes, lanes=1),
                work=change_perhaps_keyed,
                observer=observe("change"),
                key=lambda write: write.ticket.id,
                doubt=lambda won: won or None,
                gives_up_locks=True,
                not_held=not_held,
            )
            for _ in range(lanes.lanes)
        ]
        self._room: Mapping[Work, Callable[[], bool]] = {
            "create": self._creations.has_room,
            "read": self._reads.has_room,
            "list": self._pages.has_room,
            # A change begins with a read; which lane it then needs is not known before.
            "change": self._reads.has_room,
        }

    async def run(self) -> None:
        """Runs the lanes until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._creations.run())
            group.create_task(self._keyed.run())
            group.create_task(self._kept.run())
            group.create_task(self._reads.run())
            group.create_task(self._pages.run())
            for lane in self._writes:
                group.create_task(lane.run())

    async def open(self) -> None:
        """The lanes connect when they have something to do."""

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    async def check(self) -> None:
        if self._watch is not None:
            try:
                return await require_schema(self._watch)
            except AWAY:
                # The kept connection may just have been closed on the other side.
                self._watch = None
        try:
            self._watch = await self._connect()
            return await require_schema(self._watch)
        except AWAY as error:
            self._watch = None
            raise DatabaseUnavailableError from error

    def has_room(self, work: Work) -> bool:
        return self._room[work]()

    async def create(self, ticket: Ticket, event: TicketEvent) -> None:
        await self._creations.submit(Creation(ticket, event))
        self._signal()

    async def create_once(self, ticket: Ticket, event: TicketEvent, key: Key) -> UUID:
        kept = require_same(await self._keyed.submit(KeyedCreation(ticket, event, key)), key)
        if kept.ticket_id == ticket.id:
            self._signal()
        return kept.ticket_id

    async def get(self, ticket_id: UUID) -> Ticket:
        ticket = await self._reads.submit(ticket_id)
        if ticket is None:
            raise TicketNotFoundError(ticket_id)
        return ticket

    async def show(self, ticket_id: UUID) -> Shown:
        ticket = await self.get(ticket_id)
        return Shown(ticket.version, ticket_json(ticket))

    async def page(self, query: TicketQuery) -> list[Ticket]:
        return await self._pages.submit(query)

    async def change(self, ticket_id: UUID, change: Change, describe: Describe) -> Ticket:
        lane = self._writes[ticket_id.int % len(self._writes)]
        doubtful: list[Ticket] = []
        for _ in range(RACE_LIMIT):
            current = await self.get(ticket_id)
            if _was_written(current, doubtful):
                self._signal()
                return current
            changed = change(current)
            if changed is current:
                return current
            event = describe(current, changed)
            won = await lane.submit(Write(changed, event, current.version))
            if won:
                self._signal()
                return changed
            if won is None:
                doubtful.append(changed)
            self._count_error("lost_race")
        raise OverloadedError

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        lane = self._writes[ticket_id.int % len(self._writes)]
        for _ in range(RACE_LIMIT):
            try:
                current = await self.get(ticket_id)
                changed = change(current)
            except REFUSED_BY_STATE:
                # The ticket may be in this state because of the first request.
                kept = await self._kept.submit(key.digest)
                if kept is None:
                    raise
                return require_same(kept, key)
            event = describe(current, changed)
            if await lane.submit(Write(changed, event, current.version, key)):
                self._signal()
                return changed
            kept = await self._kept.submit(key.digest)
            if kept is not None:
                return self._first_answer(require_same(kept, key), changed)
            self._count_error("lost_race")
        raise OverloadedError

    def _first_answer(self, kept: Kept, changed: Ticket) -> Ticket | Kept:
        """What is kept may be this very change, when the answer to its commit was lost."""
        if kept.answer != ticket_json(changed):
            return kept
        self._signal()
        return changed

    async def note_change(self, ticket_id: UUID) -> None:
        del ticket_id
        self._signal()


def _was_written(current: Ticket, doubtful: Sequence[Ticket]) -> bool:
    """Was one of the writes that were repeated after a lost connection committed the first time?

    Raises DatabaseUnavailableError when that cannot be known: somebody has changed the ticket
    further since.
    """
    if current in doubtful:
        return True
    if any(current.version > intended.version for intended in doubtful):
        raise DatabaseUnavailableError(
            "The connection to the database broke during the change, and the ticket has been "
            "changed again since; read it to see whether yours is in it"
        )
    return False
