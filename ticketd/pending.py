"""A result on its way: what a request waits for, its body or the statement that carries it.

A coroutine that is driven by hand (see ticketd/exchange.py) gets the Pending itself and goes on in
the very call that settles it. Under a task, as other ASGI servers have it, the same wait behaves
like a future.
"""

import asyncio
from collections.abc import Callable, Generator
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
