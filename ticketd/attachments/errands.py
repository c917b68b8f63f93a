"""Requests that need more of the event loop than a Pending: each is carried out in a task of its
own, and the request waits for that. A client that goes away leaves its errand to end by itself.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from ticketd.errors import OverloadedError, StorageUnavailableError
from ticketd.pending import Pending, TaskPending

Result = TypeVar("Result")
Errand = Callable[[], Coroutine[Any, Any, Result]]


class Errands:
    """At most `most` at once. Whoever waits is answered after `patience_seconds` at the latest,
    while the errand goes on. `in_tasks` says how requests wait, as for lanes."""

    def __init__(self, *, in_tasks: bool, most: int, patience_seconds: float) -> None:
        self._pending: type[Pending[Any]] = TaskPending if in_tasks else Pending
        self._most = most
        self._patience_seconds = patience_seconds
        self._tasks: set[asyncio.Task[Any]] = set()
        self._shared: dict[object, asyncio.Task[Any]] = {}

    def run(self, errand: Errand[Result]) -> Pending[Result]:
        """Its outcome, on its way. Raises OverloadedError; awaiting it raises what the errand
        raised, or StorageUnavailableError when that takes too long."""
        return self._wait_for(self._start(errand))

    def join(self, key: object, errand: Errand[Result]) -> Pending[Result]:
        """As `run`, but who comes with the same key while it runs shares its outcome."""
        task = self._shared.get(key)
        if task is None:
            task = self._shared[key] = self._start(errand)
            task.add_done_callback(lambda _: self._shared.pop(key))
        return self._wait_for(task)

    def _start(self, errand: Errand[Result]) -> asyncio.Task[Result]:
        if len(self._tasks) >= self._most:
            raise OverloadedError
        task = asyncio.get_running_loop().create_task(errand())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _wait_for(self, task: asyncio.Task[Result]) -> Pending[Result]:
        pending = self._pending()
        late = StorageUnavailableError("It takes longer than a request may, and goes on")
        timer = task.get_loop().call_later(self._patience_seconds, pending.fail, late)
        task.add_done_callback(partial(_settle, pending, timer))
        return pending


def _settle(pending: Pending[Any], timer: asyncio.TimerHandle, task: asyncio.Task[Any]) -> None:
    timer.cancel()
    if task.cancelled():
        pending.fail(StorageUnavailableError("The server is stopping"))
    elif (error := task.exception()) is not None:
        pending.fail(error)
    else:
        pending.settle(task.result())
