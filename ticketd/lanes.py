"""Natural batching: requests that arrive while a statement is under way share the next one.

A lane is one connection and one task. When its statement returns, it takes everything that has
gathered, up to a bound. Nothing waits for a timer, so a lone request is not slowed down, and
nobody is answered before the commit of the statement that carried its request.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import psycopg

from servicedesk.database import AWAY
from servicedesk.wire import Connection, Statement, Wire
from ticketd.errors import DatabaseUnavailableError, OverloadedError
from ticketd.pending import Pending, Result, TaskPending

Item = TypeVar("Item")

# A statement prepared before a migration changed a column's type ("cached plan must not change
# result type") never works again on its connection, but does on the next one.
UNREACHABLE = (*AWAY, psycopg.errors.FeatureNotSupported)
PAUSE_SECONDS = 0.02
# For who locks rows that people lock as well, in psql or with a change of many tickets. A lock of
# ticketd's own is over within milliseconds, on a slow disk within tenths of a second; whoever waits
# for longer keeps his lane from all others, for most of the time that their requests have.
LOCK_TIMEOUT = Statement("lock_timeout", "SELECT set_config('lock_timeout', '500ms', false)")
HELD = "The ticket is held by another transaction"


class BatchObserver(Protocol):
    """What a lane reports: sizes and seconds of each batch, and failures by kind."""

    def batch(self, size: int, waited_seconds: float, took_seconds: float) -> None:
        """`waited_seconds` is the oldest request's wait before it was taken."""

    def failure(self, kind: str) -> None:
        """`away`; `split` when a batch was taken apart to find the row at fault; `held` when
        somebody held a row of it for too long."""


class Waiting(Pending[Result], Generic[Item, Result]):
    """A request in the queue, since a time by the monotonic clock; over when it was given up."""

    __slots__ = ("item", "since")

    def __init__(self, item: Item, since: float) -> None:
        super().__init__()
        self.item = item
        self.since = since


class TaskWaiting(Waiting[Item, Result], TaskPending[Result]):
    """The same, awaited in a task."""

    __slots__ = ()

    __await__ = TaskPending.__await__


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """`most` bounds the requests of one batch, `queue_limit` those that wait to be taken.
    `in_tasks` says that results are awaited in tasks, and not by coroutines driven by hand.
    `now` is monotonic, in seconds."""

    connect: Callable[[], Awaitable[Connection]]
    in_tasks: bool
    now: Callable[[], float]
    lanes: int
    most: int
    queue_limit: int
    retry_seconds: float


class Lanes(Generic[Item, Result]):
    """A bounded queue and the lanes that empty it.

    `work` carries out items as one transaction and returns their results in the same order. It may
    be repeated after a lost connection, for `retry_seconds`, so repeating it must do no harm; what
    a repeat returns goes through `doubt`. No two items of one batch have the same `key`, and items
    of one key are taken in their order. With `gives_up_locks` nobody waits for long for a lock;
    `not_held` then says which items would find theirs free, and without it a batch fails as one.
    """

    def __init__(
        self,
        *,
        settings: LaneSettings,
        work: Callable[[Wire, Sequence[Item]], Awaitable[Sequence[Result]]],
        observer: BatchObserver,
        key: Callable[[Item], object] | None = None,
        doubt: Callable[[Result], Result] = lambda result: result,
        gives_up_locks: bool = False,
        not_held: Callable[[Wire, Sequence[Item]], Awaitable[Sequence[bool]]] | None = None,
    ) -> None:
        self._gives_up_locks = gives_up_locks
        self._not_held = not_held
        self._key = key
        self._doubt = doubt
        self._connect = settings.connect
        self._now = settings.now
        self._waiting: type[Waiting[Item, Result]] = TaskWaiting if settings.in_tasks else Waiting
        self._work = work
        self._lanes = settings.lanes
        self._most = settings.most
        self._queue_limit = settings.queue_limit
        self._retry_seconds = settings.retry_seconds
        self._observer = observer
        self._queue: deque[Waiting[Item, Result]] = deque()
        self._idle: list[asyncio.Future[None]] = []

    def has_room(self) -> bool:
        """Whether `submit` would take another item now."""
        return len(self._queue) < self._queue_limit

    def submit(self, item: Item) -> Pending[Result]:
        """The item's result, on its way. Raises OverloadedError when the queue is full.

        Awaiting it may raise DatabaseUnavailableError, and what the database says of the item.
        """
        if not self.has_room():
            raise OverloadedError
        waiting = self._waiting(item, self._now())
        self._queue.append(waiting)
        if self._idle:
            # The lane that was busy last: a small load keeps to few connections.
            lane = self._idle.pop()
            if not lane.done():
                lane.set_result(None)
        return waiting

    async def run(self) -> None:
        """Runs the lanes until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._lanes):
                group.create_task(self._run_lane())

    async def _run_lane(self) -> None:
        link = Link(self._connect, LOCK_TIMEOUT if self._gives_up_locks else None)
        try:
            while True:
                batch = self._take()
                if batch:
                    await self._carry_out(link, batch)
                else:
                    await self._arrival()
        finally:
            await link.cut()

    async def _arrival(self) -> None:
        lane = asyncio.get_running_loop().create_future()
        self._idle.append(lane)
        await lane

    def _take(self) -> list[Waiting[Item, Result]]:
        """The oldest requests that somebody still waits for."""
        if self._key is not None:
            return self._take_distinct(self._key)
        queue = self._queue
        batch: list[Waiting[Item, Result]] = []
        while queue and len(batch) < self._most:
            waiting = queue.popleft()
            if not waiting.is_over:
                batch.append(waiting)
        return batch

    def _take_distinct(self, key: Callable[[Item], object]) -> list[Waiting[Item, Result]]:
        batch: dict[object, Waiting[Item, Result]] = {}
        later: list[Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._most:
            waiting = self._queue.popleft()
            if not waiting.is_over:
                found = batch.setdefault(key(waiting.item), waiting)
                if found is not waiting:
                    later.append(waiting)
        self._queue.extendleft(reversed(later))
        return list(batch.values())

    async def _carry_out(
        self, link: "Link", batch: list[Waiting[Item, Result]], *, repeated: bool = False
    ) -> None:
        """Settle all of the batch."""
        taken_at = self._now()
        while True:
            try:
                wire = await link.wire()
                results = await self._work(wire, [waiting.item for waiting in batch])
            except psycopg.errors.LockNotAvailable as error:
                await self._pass_by(link, batch, error, repeated=repeated)
                return
            except UNREACHABLE as error:
                self._observer.failure("away")
                await link.cut()
                if self._now() - taken_at >= self._retry_seconds:
                    _fail(batch, DatabaseUnavailableError(), error)
                    return
                repeated = True
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:  # the boundary of the batch: one request's fault is its own
                await self._split(link, batch, error)
                return
            else:
                waited, took = taken_at - batch[0].since, self._now() - taken_at
                self._observer.batch(len(batch), waited, took)
                if repeated:
                    results = [self._doubt(result) for result in results]
                # In a turn of its own: the next statement is on its way while these are answered.
                asyncio.get_running_loop().call_soon(_settle, batch, results)
                return

    async def _pass_by(
        self,
        link: "Link",
        batch: list[Waiting[Item, Result]],
        error: Exception,
        *,
        repeated: bool,
    ) -> None:
        """Somebody holds a row, so nothing of the batch is done: requests whose rows are held fail,
        others are carried out. Many held rows cost the lane no more time than one."""
        self._observer.failure("held")
        are_free = await self._are_free(link, batch)
        held = [waiting for waiting, free in zip(batch, are_free, strict=True) if not free]
        _fail(held, DatabaseUnavailableError(HELD), error)
        others = [waiting for waiting, free in zip(batch, are_free, strict=True) if free]
        if others:
            await self._carry_out(link, others, repeated=repeated)

    async def _are_free(self, link: "Link", batch: list[Waiting[Item, Result]]) -> Sequence[bool]:
        """Never all of them: what nobody holds a row of waits for the whole table."""
        nothing = [False] * len(batch)
        if self._not_held is None or len(batch) == 1:
            return nothing
        try:
            found = await self._not_held(await link.wire(), [waiting.item for waiting in batch])
        except psycopg.Error:
            await link.cut()
            return nothing
        return nothing if all(found) else found

    async def _split(
        self, link: "Link", batch: list[Waiting[Item, Result]], error: Exception
    ) -> None:
        """The database or the driver refused the batch, so nothing of it is done: halve it until
        the row at fault stands alone."""
        if len(batch) == 1:
            _fail(batch, error, None)
            return
        self._observer.failure("split")
        middle = len(batch) // 2
        await self._carry_out(link, batch[:middle])
        await self._carry_out(link, batch[middle:])


class Link:
    """The connection of one lane: made when it is needed, and anew after it was cut. `first` is run
    on each before it is used."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], first: Statement | None
    ) -> None:
        self._connect = connect
        self._first = first
        self._wire: Wire | None = None

    async def wire(self) -> Wire:
        """Raises psycopg.OperationalError."""
        if self._wire is None:
            wire = Wire(await self._connect())
            if self._first is not None:
                try:
                    await wire.run(self._first, [])
                except BaseException:
                    await wire.close()
                    raise
            self._wire = wire
        return self._wire

    async def cut(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()


def _settle(batch: Sequence[Waiting[Item, Result]], results: Sequence[Result]) -> None:
    for waiting, result in zip(batch, results, strict=True):
        waiting.settle(result)


def _fail(
    batch: Sequence[Waiting[Item, Result]], error: Exception, cause: Exception | None
) -> None:
    error.__cause__ = cause
    loop = asyncio.get_running_loop()
    for waiting in batch:
        loop.call_soon(waiting.fail, error)
