"""A result on its way: what a request waits for, its body or the statement that carries it.

Two ways to wait: a coroutine that is driven by hand (see ticketd/exchange.py) gets the Pending
itself and goes on in the very call that settles it; a task waits as for a future.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """Awaited by one coroutine at most, driven by hand. `is_over` once it is settled, or once
    nobody waits."""

    __slots__ = ("_error", "_result", "_resume", "is_over")

    _result: Result

    def __init__(self) -> None:
        self.is_over = False
        self._error: BaseException | None = None
        self._resume: Callable[[], None] | None = None

    def settle(self, result: Result) -> None:
        """Does nothing when it is over. Call it outside of any task: whoever waits goes on at
        once."""
        if not self.is_over:
            self.is_over = True
            self._result = result
            if self._resume is not None:
                self._resume()

    def fail(self, error: BaseException) -> None:
        """As `settle`; the error rises where it is awaited."""
        if not self.is_over:
            self.is_over = True
            self._error = error
            if self._resume is not None:
                self._resume()

    def when_settled(self, resume: Callable[[], None]) -> None:
        self._resume = resume

    def __await__(self) -> Generator[Any, None, Result]:
        if not self.is_over:
            try:
                yield self
            finally:
                self.is_over = True
        return self._outcome()

    def _outcome(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._result


class TaskPending(Pending[Result]):
    """A Pending that is awaited in a task."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Result]:
        if not self.is_over:
            future = asyncio.get_running_loop().create_future()
            self.when_settled(lambda: None if future.done() else future.set_result(None))
            try:
                yield from future.__await__()
            finally:
                self.is_over = True
        return self._outcome()


async def in_task(driven: Coroutine[Any, None, Result]) -> Result:
    """Awaits in a task what is made to be driven by hand, and so awaits nothing but Pendings."""
    try:
        while True:
            try:
                pending: Pending[Any] = driven.send(None)
            except StopIteration as end:
                result: Result = end.value
                return result
            settled = asyncio.Event()
            pending.when_settled(settled.set)
            await settled.wait()
    finally:
        driven.close()
