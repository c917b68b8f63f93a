"""What a worker asks Redis: all that comes up in one turn of the event loop, or while the last
exchange is under way, shares the next one. A Redis that is slow or away is not waited for.

Nothing here ever fails a request. While the circuit is open, and when an exchange fails or takes
too long, everything asked is answered with what its Gathering gives `otherwise`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, Protocol, TypeVar

import psycopg

from servicedesk.backoff import Backoff
from servicedesk.logs import Log
from ticketd.lanes import BatchObserver, TaskWaiting, Waiting
from ticketd.pending import Pending
from ticketd.redis_wire import (
    RedisAddress,
    RedisError,
    RedisGarbledError,
    RedisLostError,
    RedisWire,
    Script,
    pack,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = list[Waiting[Item, Result]]

# Of one command, so that Redis is not held up for others.
MOST = 512
# What waits beyond it is answered as if Redis were away.
QUEUE_LIMIT = 8192
CONNECT_SECONDS = 1.0
# The least that uvloop waits for, so that it looks at its sockets before that is over.
LOOK_SECONDS = 0.001
RECONNECT = Backoff(base_seconds=0.1, cap_seconds=2.0)
# A server that is lost again sooner is one that comes and goes, and is tried less and less often.
STEADY_SECONDS = 5.0
AWAY = (RedisError, RedisLostError, OSError, TimeoutError, psycopg.Error)
# The server is not what it was: a demoted primary, one that has forgotten the scripts, or one that
# is not ready yet. Another connection may lead to a better one.
CHANGED = frozenset({"READONLY", "NOSCRIPT", "LOADING", "MASTERDOWN", "NOAUTH"})


class RedisObserver(BatchObserver, Protocol):
    """Also hears the state. Failures are `away` and `refused`, a command that Redis answered with
    an error."""

    def state(self, *, is_up: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """`exchange_seconds` bounds a round trip; `now` is monotonic; `in_tasks` as for lanes.
    `read_owner` tells whose names these are; it may raise what a missing database raises."""

    address: RedisAddress
    read_owner: Callable[[], Awaitable[str]]
    exchange_seconds: float
    in_tasks: bool
    now: Callable[[], float]


class Gathering(Generic[Item, Result]):
    """Questions of one kind, which share one command.

    `pack` makes the command for some items, `unpack` the result of each from its reply.
    """

    def __init__(
        self,
        link: "RedisLink",
        pack: Callable[[Sequence[Item]], bytes],
        unpack: Callable[[Sequence[Item], Any], Sequence[Result]],
        otherwise: Result,
    ) -> None:
        self._link = link
        self._otherwise = otherwise
        self._unpack = unpack
        self._waiting: type[Waiting[Item, Result]] = TaskWaiting if link.in_tasks else Waiting
        self.pack = pack
        self.queue: Batch[Item, Result] = []

    def ask(self, item: Item) -> Pending[Result]:
        """The result, on its way; `otherwise` at once when the circuit is open."""
        waiting = self._waiting(item, self._link.now())
        if self._link.is_up and len(self.queue) < QUEUE_LIMIT:
            self.queue.append(waiting)
            self._link.wake()
        else:
            waiting.settle(self._otherwise)
        return waiting

    def take(self) -> Batch[Item, Result]:
        batch, self.queue = self.queue[:MOST], self.queue[MOST:]
        return batch

    def answer(self, batch: Batch[Item, Result], reply: object) -> None:
        """Call it outside of any task. Raises RedisGarbledError, and has settled none then."""
        try:
            results = self._unpack([waiting.item for waiting in batch], reply)
            answered = list(zip(batch, results, strict=True))
        except (TypeError, ValueError) as error:
            raise RedisGarbledError from error
        for waiting, result in answered:
            waiting.settle(result)

    def give_up(self, batch: Batch[Item, Result]) -> None:
        for waiting in batch:
            asyncio.get_running_loop().call_soon(waiting.settle, self._otherwise)


class RedisLink:
    """`run` has to run beside the requests; until it has connected, the circuit is open."""

    def __init__(self, settings: LinkSettings, observer: RedisObserver, log: Log) -> None:
        self.in_tasks = settings.in_tasks
        self.now = settings.now
        self.is_up = False
        self._settings = settings
        self._observer = observer
        self._log = log
        self._gatherings: list[Gathering[Any, Any]] = []
        self._scripts: list[bytes] = []
        self._owner = b""
        self._server = ""
        self._wire: RedisWire | None = None
        self._end: asyncio.Future[None] | None = None
        # What the exchange under way has asked and not yet heard, in order.
        self._asked: list[tuple[Gathering[Any, Any], Batch[Any, Any]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self._began = 0.0
        self._attempts = 0
        self._is_reported = False
        self._was_refused = False

    def gathering(
        self,
        pack: Callable[[Sequence[Item]], bytes],
        unpack: Callable[[Sequence[Item], Any], Sequence[Result]],
        otherwise: Result,
    ) -> Gathering[Item, Result]:
        gathering = Gathering(self, pack, unpack, otherwise)
        self._gatherings.append(gathering)
        return gathering

    def register_script(self, script: Script) -> None:
        """Every new connection loads it."""
        self._scripts.append(pack(b"SCRIPT", b"LOAD", script.text))

    def name(self, kind: bytes, rest: bytes) -> bytes:
        """Of a key in Redis, apart from those of every other database."""
        return b"servicedesk:%b:%b:%b" % (self._owner, kind, rest)

    def server(self) -> str:
        """Which primary is connected; empty while none is."""
        return self._server if self.is_up else ""

    def wake(self) -> None:
        """Something has been asked: send it when this turn of the event loop is over."""
        if not self._is_due and not self._asked:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._exchange)

    async def run(self) -> None:
        """Until it is cancelled. Connects, and again after a growing pause whenever it fails."""
        self._observer.state(is_up=False)
        try:
            while True:
                try:
                    await self._serve()
                except AWAY as error:
                    self._report_away(error)
                    self._attempts += 1
                self._give_all_up()
                await asyncio.sleep(RECONNECT.delay_seconds(self._attempts, random.random))
        finally:
            self._give_all_up()

    async def _serve(self) -> None:
        """Raises what ended it."""
        if not self._owner:
            owner = await self._settings.read_owner()
            self._owner = sha256(owner.encode()).hexdigest()[:16].encode()
        self._end = asyncio.get_running_loop().create_future()
        self._wire = RedisWire(self._heard, self._lose)
        async with asyncio.timeout(CONNECT_SECONDS):
            self._server = await self._wire.greet(self._settings.address, *self._scripts)
        began = self.now()
        self.is_up, self._is_reported, self._was_refused = True, False, False
        self._observer.state(is_up=True)
        self._log.info("redis_up")
        try:
            await self._end
        finally:
            if self.now() - began > STEADY_SECONDS:
                self._attempts = 0

    def _exchange(self) -> None:
        """One round trip for all that has gathered."""
        self._is_due = False
        if self._asked or not self.is_up or self._wire is None:
            return
        self._asked = [(each, each.take()) for each in self._gatherings if each.queue]
        if self._asked:
            self._began = self.now()
            commands = [
                each.pack([waiting.item for waiting in batch]) for each, batch in self._asked
            ]
            self._wire.send(b"".join(commands))
            self._timer = asyncio.get_running_loop().call_later(
                self._settings.exchange_seconds, self._look_again
            )

    def _look_again(self) -> None:
        """After a stall of this very process uvloop runs its timers before it reads, and the answer
        may be there: hear it first, which ends the timer."""
        self._timer = asyncio.get_running_loop().call_later(
            LOOK_SECONDS, self._lose, TimeoutError()
        )

    def _heard(self, reply: object) -> None:
        if not self._asked:  # no answer to anything, so this is not Redis
            self._lose(RedisGarbledError())
            return
        gathering, batch = self._asked[0]
        if isinstance(reply, RedisError):
            if reply.code in CHANGED:
                self._lose(reply)
                return
            self._report_refused(reply)
            gathering.give_up(batch)
        else:
            self._observer.batch(len(batch), self._began - batch[0].since, self.now() - self._began)
            try:
                gathering.answer(batch, reply)
            except RedisGarbledError as error:
                self._lose(error)
                return
        del self._asked[0]
        if not self._asked:
            if self._timer is not None:
                self._timer.cancel()
            self.wake()

    def _lose(self, error: BaseException) -> None:
        """Open the circuit; `run` goes on from here."""
        self._give_all_up()
        if self._end is not None and not self._end.done():
            self._end.set_exception(error)
            # While it is greeted nobody asks for this, and asyncio would complain on stderr.
            self._end.exception()

    def _give_all_up(self) -> None:
        self.is_up = False
        self._observer.state(is_up=False)
        if self._timer is not None:
            self._timer.cancel()
        if self._wire is not None:
            self._wire.close()
        asked, self._asked = self._asked, []
        for gathering, batch in asked:
            gathering.give_up(batch)
        for gathering in self._gatherings:
            while gathering.queue:
                gathering.give_up(gathering.take())

    def _report_away(self, error: BaseException) -> None:
        self._observer.failure("away")
        if not self._is_reported:
            code = error.code if isinstance(error, RedisError) else type(error).__name__
            self._log.warning("redis_away", reason=code)
            self._is_reported = True

    def _report_refused(self, error: RedisError) -> None:
        """Out of memory, or not allowed. One line a connection, however many there are."""
        self._observer.failure("refused")
        if not self._was_refused:
            self._log.warning("redis_refused", reason=error.code)
            self._was_refused = True
