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
from psycopg import AsyncConnection

from servicedesk.database import AWAY
from ticketd.errors import DatabaseUnavailableError, OverloadedError

Connection = AsyncConnection[tuple[object, ...]]
Item = TypeVar("Item")
Result = TypeVar("Result")

# A standby that still takes our writes has just lost its role: the same as being away.
UNREACHABLE = (*AWAY, psycopg.errors.ReadOnlySqlTransaction)
PAUSE_SECONDS = 0.02


class BatchObserver(Protocol):
    """What a lane reports: sizes and seconds of each batch, and failures by kind."""

    def batch(self, size: int, waited_seconds: float, took_seconds: float) -> None:
        """`waited_seconds` is the oldest request's wait before it was taken."""

    def failure(self, kind: str) -> None:
        """`away`, or `split` when a batch was taken apart to find the row at fault."""


@dataclass(slots=True)
class Waiting(Generic[Item, Result]):
    """A request in the queue; its future is done already when the request was given up."""

    item: Item
    future: "asyncio.Future[Result]"
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """`most` bounds the requests of one batch, `queue_limit` those that wait to be taken."""

    connect: Callable[[], Awaitable[Connection]]
    lanes: int
    most: int
    queue_limit: int
    retry_seconds: float


class Lanes(Generic[Item, Result]):
    """A bounded queue and the lanes that empty it.

    `work` carries out items as one transaction and returns their results in the same order. It may
    be repeated after a lost connection, for `retry_seconds`, so repeating it must do no harm; what
    a repeat returns goes through `doubt`. No two items of one batch have the same `key`, and items
    of one key are taken in their order.
    """

    def __init__(
        self,
        *,
        settings: LaneSettings,
        work: Callable[[Connection, Sequence[Item]], Awaitable[Sequence[Result]]],
        observer: BatchObserver,
        key: Callable[[Item], object] | None = None,
        doubt: Callable[[Result], Result] = lambda result: result,
    ) -> None:
        self._key = key
        self._doubt = doubt
        self._connect = settings.connect
        self._work = work
        self._lanes = settings.lanes
        self._most = settings.most
        self._queue_limit = settings.queue_limit
        self._retry_seconds = settings.retry_seconds
        self._observer = observer
        self._queue: deque[Waiting[Item, Result]] = deque()
        self._idle: list[asyncio.Future[None]] = []

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The future of the item's result. Raises OverloadedError when the queue is full.

        The future may raise DatabaseUnavailableError, and what the database says of the item.
        """
        if len(self._queue) >= self._queue_limit:
            raise OverloadedError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(Waiting(item, future, loop.time()))
        if self._idle:
            # The lane that was busy last: a small load keeps to few connections.
            lane = self._idle.pop()
            if not lane.done():
                lane.set_result(None)
        return future

    async def run(self) -> None:
        """Runs the lanes until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._lanes):
                group.create_task(self._run_lane())

    async def _run_lane(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                batch = self._take()
                if batch:
                    connection = await self._carry_out(connection, batch)
                else:
                    await self._arrival()
        finally:
            if connection is not None:
                await connection.close()

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
            if not waiting.future.done():
                batch.append(waiting)
        return batch

    def _take_distinct(self, key: Callable[[Item], object]) -> list[Waiting[Item, Result]]:
        batch: dict[object, Waiting[Item, Result]] = {}
        later: list[Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._most:
            waiting = self._queue.popleft()
            if not waiting.future.done():
                found = batch.setdefault(key(waiting.item), waiting)
                if found is not waiting:
                    later.append(waiting)
        self._queue.extendleft(reversed(later))
        return list(batch.values())

    async def _carry_out(
        self, connection: Connection | None, batch: list[Waiting[Item, Result]]
    ) -> Connection | None:
        """Settle every future of the batch; returns the connection to go on with."""
        loop = asyncio.get_running_loop()
        taken_at = loop.time()
        repeated = False
        while True:
            try:
                if connection is None:
                    connection = await self._connect()
                results = await self._work(connection, [waiting.item for waiting in batch])
            except UNREACHABLE as error:
                self._observer.failure("away")
                if connection is not None:
                    await connection.close()
                    connection = None
                if loop.time() - taken_at >= self._retry_seconds:
                    _fail(batch, DatabaseUnavailableError(), error)
                    return None
                repeated = True
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception as error:  # the boundary of the batch: one request's fault is its own
                return await self._split(connection, batch, error)
            else:
                now = loop.time()
                self._observer.batch(len(batch), taken_at - batch[0].since, now - taken_at)
                for waiting, result in zip(batch, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(self._doubt(result) if repeated else result)
                return connection

    async def _split(
        self,
        connection: Connection | None,
        batch: list[Waiting[Item, Result]],
        error: Exception,
    ) -> Connection | None:
        """The database or the driver refused the batch, so nothing of it is done: halve it until
        the row at fault stands alone."""
        if len(batch) == 1:
            _fail(batch, error, None)
            return connection
        self._observer.failure("split")
        middle = len(batch) // 2
        connection = await self._carry_out(connection, batch[:middle])
        return await self._carry_out(connection, batch[middle:])


def _fail(
    batch: Sequence[Waiting[Item, Result]], error: Exception, cause: Exception | None
) -> None:
    error.__cause__ = cause
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
