"""A result on its way, and a coroutine that waits for it without a task.

A request waits once or twice, for its body and for the statement that carries it. A task costs two
turns of the event loop for each wait and a place in its books; driven by hand, the coroutine goes
on in the very call that settles what it waits for. Under a task, as other ASGI servers have it, the
same wait behaves like a future.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """Awaited by one coroutine at most. `is_over` once it is settled, or once nobody waits."""

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

    def give_up(self) -> None:
        """Nobody waits any more."""
        self.is_over = True

    def when_settled(self, resume: Callable[[], None]) -> None:
        self._resume = resume

    def __await__(self) -> Generator[Any, None, Result]:
        if not self.is_over:
            try:
                if asyncio.current_task() is None:
                    yield self
                else:
                    yield from self._future().__await__()
            finally:
                self.is_over = True
        if self._error is not None:
            raise self._error
        return self._result

    def _future(self) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resume() -> None:
            if not future.done():
                future.set_result(None)

        self._resume = resume
        return future


class Driven(Generic[Result]):
    """A coroutine driven by hand from one Pending to the next; it may await nothing else.

    `finish` gets what it returns. The coroutine must not raise: its errors are its own to answer.
    """

    __slots__ = ("_coroutine", "_finish")

    def __init__(
        self, coroutine: Coroutine[Any, None, Result], finish: Callable[[Result], None]
    ) -> None:
        self._coroutine = coroutine
        self._finish = finish

    def advance(self) -> None:
        """Run it to its next wait or to its end. Call it outside of any task."""
        try:
            pending: Pending[Any] = self._coroutine.send(None)
        except StopIteration as end:
            self._finish(end.value)
        else:
            pending.when_settled(self.advance)

    def interrupt(self, error: Exception) -> None:
        """Raise an error where it waits."""
        try:
            pending: Pending[Any] = self._coroutine.throw(error)
        except StopIteration as end:
            self._finish(end.value)
        else:
            pending.when_settled(self.advance)

    def abandon(self) -> None:
        """End it where it waits; `finish` is not called."""
        self._coroutine.close()
