"""Answers to requests with an Idempotency-Key, remembered in Redis so that repeats are cheap.

The database decides; what is in Redis was committed before. A key that is not there, or there with
another fingerprint, is the database's to answer, so Redis may forget whatever it likes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from ticketd.events import TicketEvent
from ticketd.idempotency import DIGEST_BYTES, Kept, Key
from ticketd.pending import Pending
from ticketd.redis_link import RedisLink
from ticketd.redis_wire import Script, pack
from ticketd.representation import ticket_json
from ticketd.store import Change, Describe, TicketStore
from ticketd.store_before import StoreBefore
from ticketd.tickets import Ticket

# Repeats come within seconds or minutes; after that the database is quick enough.
REMEMBERED_SECONDS = b"900"
KIND = b"replay"
# How the share of repeats follows the last few dozen requests, and from which on Redis is worth it.
WEIGHT = 1 / 32
WORTHWHILE_SHARE = 0.1
HEAD_BYTES = DIGEST_BYTES + 16
REMEMBER = Script(
    b"for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end"
)


class Answer(NamedTuple):
    """What is kept under a digest."""

    digest: bytes
    kept: Kept


class Replays:
    """The answers remembered in Redis."""

    def __init__(self, link: RedisLink) -> None:
        link.register_script(REMEMBER)
        self._link = link
        self._found = link.gathering(self._pack_look_up, _kept_of_all, None)
        self._remembered = link.gathering(self._pack_answers, _no_results, None)

    def find(self, digest: bytes) -> Pending[Kept | None]:
        """None also when Redis is not there."""
        return self._found.ask(digest)

    def remember(self, digest: bytes, kept: Kept) -> None:
        """Soon, and perhaps not at all; nobody waits for it."""
        self._remembered.ask(Answer(digest, kept))

    def _pack_look_up(self, digests: Sequence[bytes]) -> bytes:
        return pack(b"MGET", *[self._link.name(KIND, digest) for digest in digests])

    def _pack_answers(self, answers: Sequence[Answer]) -> bytes:
        values = [
            kept.fingerprint + kept.ticket_id.bytes + (kept.answer or b"") for _, kept in answers
        ]
        keys = [self._link.name(KIND, digest) for digest, _ in answers]
        return REMEMBER.pack(*keys, REMEMBERED_SECONDS, *values, keys=len(keys))


def _kept_of_all(digests: Sequence[bytes], values: Sequence[bytes | None]) -> Sequence[Kept | None]:
    del digests
    return [None if value is None else _kept_of(value) for value in values]


def _kept_of(value: bytes) -> Kept | None:
    if len(value) < HEAD_BYTES:
        return None
    return Kept(
        fingerprint=value[:DIGEST_BYTES],
        ticket_id=UUID(bytes=value[DIGEST_BYTES:HEAD_BYTES]),
        answer=value[HEAD_BYTES:] or None,
    )


def _no_results(answers: Sequence[Answer], reply: object) -> Sequence[None]:
    del reply
    return [None] * len(answers)


class ReplayingStore(StoreBefore):
    """A TicketStore that answers repeats from memory while there are many. `count_replay` hears of
    each."""

    def __init__(
        self, store: TicketStore, replays: Replays, count_replay: Callable[[], None]
    ) -> None:
        super().__init__(store)
        self._replays = replays
        self._count_replay = count_replay
        self._share = 0.0

    async def create_once(self, ticket: Ticket, event: TicketEvent, key: Key) -> UUID:
        kept = await self._find(key)
        if kept is not None:
            return kept.ticket_id
        first_id = await self._store.create_once(ticket, event, key)
        self._remember(key, Kept(key.fingerprint, first_id, None), is_repeat=first_id != ticket.id)
        return first_id

    async def change_once(
        self, ticket_id: UUID, change: Change, describe: Describe, key: Key
    ) -> Ticket | Kept:
        kept = await self._find(key)
        if kept is not None:
            return kept
        found = await self._store.change_once(ticket_id, change, describe, key)
        if isinstance(found, Kept):
            self._remember(key, found, is_repeat=True)
        else:
            kept = Kept(key.fingerprint, ticket_id, ticket_json(found))
            self._remember(key, kept, is_repeat=False)
        return found

    async def _find(self, key: Key) -> Kept | None:
        """What is remembered. Asked only while repeats are frequent: every look-up that finds
        nothing has cost its request a round trip."""
        if self._share < WORTHWHILE_SHARE:
            return None
        kept = await self._replays.find(key.digest)
        if kept is None or kept.fingerprint != key.fingerprint:
            return None
        self._notice(is_repeat=True)
        self._count_replay()
        return kept

    def _remember(self, key: Key, kept: Kept, *, is_repeat: bool) -> None:
        """What was repeated once may be so again; what is new, only while repeats are frequent."""
        self._notice(is_repeat=is_repeat)
        if is_repeat or self._share >= WORTHWHILE_SHARE:
            self._replays.remember(key.digest, kept)

    def _notice(self, *, is_repeat: bool) -> None:
        self._share += (is_repeat - self._share) * WEIGHT
