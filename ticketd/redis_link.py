"""A worker's connection to Redis: what is asked in the meantime shares the next round trip, and a
Redis that is slow or away is not waited for.

Nothing here ever fails a request. While the circuit is open, and when an exchange fails or takes
too long, everything asked is answered with what its Gathering gives `otherwise`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import Any, Generic, Protocol, TypeVar

import hiredis
import psycopg
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from servicedesk.backoff import Backoff
from servicedesk.logs import Log
from ticketd.lanes import BatchObserver, TaskWaiting, Waiting
from ticketd.pending import Pending

Item = TypeVar("Item")
Result = TypeVar("Result")
Batch = list[Waiting[Item, Result]]

# Of one command, so that Redis is not held up for others.
MOST = 512
# What waits beyond it is answered as if Redis were away.
QUEUE_LIMIT = 8192
CONNECT_SECONDS = 1.0
RECONNECT = Backoff(base_seconds=0.1, cap_seconds=2.0)
# A server that is lost again sooner is one that comes and goes, and is tried less and less often.
STEADY_SECONDS = 5.0
AWAY = (RedisError, OSError, TimeoutError, EOFError, psycopg.Error)
# The server is not what it was: a demoted primary, or one that has forgotten the scripts.
CHANGED = (ReadOnlyError, NoScriptError)


class RedisObserver(BatchObserver, Protocol):
    """Also hears the state. Failures are `away` and `refused`, a command that Redis answered with
    an error."""

    def state(self, *, is_up: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """`exchange_seconds` bounds a round trip; `now` is monotonic; `in_tasks` as for lanes.
    `read_owner` tells whose names these are; it may raise what a missing database raises."""

    url: str
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
        self._waiting: type[Waiting[Item, Result]] = TaskWaiting if link.in_tasks else Waiting
        self.pack = pack
        self.unpack = unpack
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

    def give_up(self, batch: Batch[Item, Result]) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(_settle, batch, [self._otherwise] * len(batch))


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
        self._scripts: list[Script] = []
        self._arrival = asyncio.Event()
        self._attempts = 0
        self._was_refused = False
        self._owner = b""
        self._up_since = 0.0

    def gathering(
        self,
        pack: Callable[[Sequence[Item]], bytes],
        unpack: Callable[[Sequence[Item], Any], Sequence[Result]],
        otherwise: Result,
    ) -> Gathering[Item, Result]:
        gathering = Gathering(self, pack, unpack, otherwise)
        self._gatherings.append(gathering)
        return gathering

    def register_script(self, script: "Script") -> None:
        """Every new connection loads it."""
        self._scripts.append(script)

    def name(self, kind: bytes, rest: bytes) -> bytes:
        """Of a key in Redis, apart from those of every other database."""
        return b"servicedesk:%b:%b:%b" % (self._owner, kind, rest)

    def wake(self) -> None:
        self._arrival.set()

    async def run(self) -> None:
        """Until it is cancelled. Connects, and again after a growing pause whenever it fails."""
        connection = _connection(self._settings.url)
        self._observer.state(is_up=False)
        try:
            while True:
                try:
                    await self._serve(connection)
                except AWAY as error:
                    self._open_circuit(error)
                    await connection.disconnect(nowait=True)
                    self._attempts += 1
                await asyncio.sleep(RECONNECT.delay_seconds(self._attempts, random.random))
        finally:
            self._give_all_up()
            await connection.disconnect(nowait=True)

    async def _serve(self, connection: Connection) -> None:
        if not self._owner:
            owner = await self._settings.read_owner()
            self._owner = sha256(owner.encode()).hexdigest()[:16].encode()
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.connect()  # type: ignore[no-untyped-call]  # untyped there
            for script in self._scripts:
                await connection.send_command("SCRIPT", "LOAD", script.text, check_health=False)
                await connection.read_response()
        self._close_circuit()
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            await self._exchange(connection)

    async def _exchange(self, connection: Connection) -> None:
        """One round trip for all that has gathered."""
        taken = [(each, each.take()) for each in self._gatherings if each.queue]
        if any(each.queue for each in self._gatherings):
            self._arrival.set()
        began = self.now()
        try:
            async with asyncio.timeout(self._settings.exchange_seconds):
                commands = [each.pack([one.item for one in batch]) for each, batch in taken]
                await connection.send_packed_command(b"".join(commands), check_health=False)
                while taken:
                    each, batch = taken[0]
                    await self._read(connection, each, batch, began)
                    del taken[0]
        finally:
            for each, batch in taken:
                each.give_up(batch)

    async def _read(
        self,
        connection: Connection,
        gathering: Gathering[Item, Result],
        batch: Batch[Item, Result],
        began: float,
    ) -> None:
        try:
            reply = await connection.read_response(disable_decoding=True)
        except CHANGED:
            raise
        except ResponseError as error:
            self._refused(error)
            gathering.give_up(batch)
            return
        results = gathering.unpack([one.item for one in batch], reply)
        self._observer.batch(len(batch), began - batch[0].since, self.now() - began)
        # In a turn of its own, as in the lanes: whoever waits goes on in the call that settles it.
        asyncio.get_running_loop().call_soon(_settle, batch, results)

    def _refused(self, error: ResponseError) -> None:
        """Out of memory, or not allowed. One line a connection, however many there are."""
        self._observer.failure("refused")
        if not self._was_refused:
            self._log.warning("redis_refused", error_class=type(error).__name__)
            self._was_refused = True

    def _close_circuit(self) -> None:
        self._up_since = self.now()
        self._was_refused = False
        self.is_up = True
        self._observer.state(is_up=True)
        self._log.info("redis_up")

    def _open_circuit(self, error: BaseException) -> None:
        self._observer.failure("away")
        if self.is_up and self.now() - self._up_since > STEADY_SECONDS:
            self._attempts = 0
        if self.is_up or not self._attempts:
            self._log.warning("redis_away", error_class=type(error).__name__)
        self.is_up = False
        self._observer.state(is_up=False)
        self._give_all_up()

    def _give_all_up(self) -> None:
        self.is_up = False
        for gathering in self._gatherings:
            while gathering.queue:
                gathering.give_up(gathering.take())


class Script:
    """A function in Lua, called by the hash of its text."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        # Redis names scripts by their SHA-1; nothing is kept secret or apart by it.
        self._sha = sha1(text, usedforsecurity=False).hexdigest().encode()

    def pack(self, keys: Sequence[bytes], values: Sequence[bytes]) -> bytes:
        """The command that calls it."""
        return pack(b"EVALSHA", self._sha, b"%d" % len(keys), *keys, *values)


def pack(*arguments: bytes) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # its stub allows one
    return packed


def _connection(url: str) -> Connection:
    """One that neither repeats nor waits by itself: the link does."""
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=None,
        socket_connect_timeout=CONNECT_SECONDS,
        client_name="ticketd",
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    connection: Connection = pool.make_connection()  # type: ignore[no-untyped-call]  # untyped there
    return connection


def _settle(batch: Batch[Item, Result], results: Sequence[Result]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        waiting.settle(result)
