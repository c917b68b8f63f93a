"""Tickets by id in Redis, never older than a change that was answered (docs/caching.md tells why).

A miss gives a lease, and only who holds it may fill the entry; a change deletes entry and lease
before it is answered, and closes the gate when it cannot.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple, Protocol
from uuid import UUID

from ticketd.gate import Gate
from ticketd.idempotency import Kept, Key
from ticketd.pending import Pending
from ticketd.redis_link import RedisLink
from ticketd.redis_wire import Script
from ticketd.store import Change, Describe, Shown, TicketStore
from ticketd.store_before import StoreBefore
from ticketd.tickets import Ticket

KIND = b"ticket"
# A reader that takes longer than this to read the database does not fill.
LEASE_MILLISECONDS = b"5000"

# What is in Redis is a lease, or an entry: its version, when it was put there, and the body.
LEASE, ENTRY = b"L", b"V"
HEAD = Struct("!cqd")
LOOK_UP = Script(
    b"""
local found = {}
for i, key in ipairs(KEYS) do
    local value = redis.call('GET', key)
    if not value then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        value = ARGV[1]
    end
    found[i] = value
end
return found
"""
)
FILL = Script(
    b"""
for i, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[2 * i] then
        redis.call('SET', key, ARGV[2 * i + 1], 'PX', ARGV[1])
    end
end
"""
)
INVALIDATE = Script(
    b"""
for i, key in ipairs(KEYS) do redis.call('DEL', key) end
return #KEYS
"""
)


class Filling(NamedTuple):
    """A ticket to be put where the lease still is."""

    key: bytes
    lease: bytes
    value: bytes


class CacheObserver(Protocol):
    """Hears how reads ended: "miss", or "bypass" when the cache was not used, or with a hit."""

    def read(self, outcome: str) -> None: ...

    def hit(self, age_seconds: float) -> None: ...


class TicketCache:
    """The entries in Redis, those of the gate's generation."""

    def __init__(
        self,
        link: RedisLink,
        gate: Gate,
        *,
        seconds: float,
        wall_clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        for script in (LOOK_UP, FILL, INVALIDATE):
            link.register_script(script)
        self._link = link
        self._gate = gate
        self._milliseconds = b"%d" % round(seconds * 1000)
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._found = link.gathering(self._pack_look_up, _values, None)
        self._filled = link.gathering(self._pack_fill, _nothing, None)
        self._invalidated = link.gathering(_pack_invalidate, _confirmed, None)

    def key(self, ticket_id: UUID) -> bytes:
        return self._link.name(KIND, b"%d:%b" % (self._gate.generation, ticket_id.bytes))

    def find(self, key: bytes) -> Pending[bytes | None]:
        """An entry or a lease, None when Redis does not say."""
        return self._found.ask(key)

    def fill(self, key: bytes, lease: bytes, shown: Shown) -> None:
        """Soon, and only where the lease still is: nothing has been changed since it was given."""
        head = HEAD.pack(ENTRY, shown.version, self._wall_clock())
        self._filled.ask(Filling(key, lease, head + shown.body))

    def invalidate(self, key: bytes) -> Pending[bool | None]:
        """True when Redis has confirmed it."""
        return self._invalidated.ask(key)

    def read(self, value: bytes) -> tuple[Shown, float] | None:
        """The ticket and the age of an entry in seconds; None for a lease."""
        if len(value) <= HEAD.size or not value.startswith(ENTRY):
            return None
        _, version, put_at = HEAD.unpack_from(value)
        return Shown(version, value[HEAD.size :]), max(self._wall_clock() - put_at, 0.0)

    def _pack_look_up(self, keys: Sequence[bytes]) -> bytes:
        # Many readers of one ticket: its body comes over the wire once.
        distinct = dict.fromkeys(keys)
        lease = LEASE + self._random_bytes(12)
        return LOOK_UP.pack(*distinct, lease, LEASE_MILLISECONDS, keys=len(distinct))

    def _pack_fill(self, fillings: Sequence[Filling]) -> bytes:
        # Who missed in one command has the same lease, and could fill only once.
        distinct = {(filling.key, filling.lease): filling for filling in fillings}.values()
        keys = [filling.key for filling in distinct]
        values = [part for _, lease, value in distinct for part in (lease, value)]
        return FILL.pack(*keys, self._milliseconds, *values, keys=len(keys))


def _pack_invalidate(keys: Sequence[bytes]) -> bytes:
    return INVALIDATE.pack(*keys, keys=len(keys))


def _values(keys: Sequence[bytes], reply: Sequence[bytes]) -> Sequence[bytes | None]:
    if not all(type(value) is bytes for value in reply):
        raise TypeError
    found = dict(zip(dict.fromkeys(keys), reply, strict=True))
    return [found[key] for key in keys]


def _nothing(fillings: Sequence[Filling], reply: object) -> Sequence[None]:
    del reply
    return [None] * len(fillings)


def _confirmed(keys: Sequence[bytes], reply: object) -> Sequence[bool | None]:
    return [reply == len(keys)] * len(keys)


class CachingStore(StoreBefore):
    """A TicketStore that shows tickets from the cache, and lets no change be answered before no
    worker can show what was before it."""

    def __init__(
        self, store: TicketStore, cache: TicketCache, gate: Gate, observer: CacheObserver
    ) -> None:
        super().__init__(store)
        self._cache = cache
        self._gate = gate
        self._observer = observer

    async def show(self, ticket_id: UUID) -> Shown:
        if not self._gate.may_be_used():
            self._observer.read("bypass")
            return await self._store.show(ticket_id)
        key = self._cache.key(ticket_id)
        value = await self._cache.find(key)
        # Not what could be used when it was asked for: what may be answered at this moment.
        if value is None or not self._gate.may_be_used():
            self._observer.read("bypass")
            return await self._store.show(ticket_id)
        found = self._cache.read(value)
        if found is not None:
            shown, age_seconds = found
            self._observer.hit(age_seconds)
            return shown
        self._observer.read("miss")
        shown = await self._store.show(ticket_id)
        self._cache.fill(key, value, shown)
        return shown

    async def change(self, ticket_id: UUID, change: Change, describe: Describe) -> Ticket:
        try:
            changed = await self._store.change(ticket_id, change, describe)
        except Exception:
            # Also a refusal tells of a change: of somebody's who was killed before invalidating.
            await self._make_known(ticket_id)
            raise
        await self._make_known(ticket_id)
        return changed

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        try:
            found = await self._store.change_once(ticket_id, change, describe, key)
        except Exception:
            await self._make_known(ticket_id)
            raise
        await self._make_known(ticket_id)
        return found

    async def note_change(self, ticket_id: UUID) -> None:
        await self._make_known(ticket_id)
        await self._store.note_change(ticket_id)

    async def _make_known(self, ticket_id: UUID) -> None:
        """Returns when nobody shows what was before."""
        if not self._gate.is_valid():
            await self._gate.look()
        if self._gate.is_closed:
            return
        if self._gate.is_mine() and await self._cache.invalidate(self._cache.key(ticket_id)):
            return
        await self._gate.close()
