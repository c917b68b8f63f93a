"""Blocking calls beside the event loop, on threads that never hold up the end of the process.

The loop's own executor would: its threads are waited for, and librdkafka's calls cannot be cut off.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

Answer = TypeVar("Answer")


async def on_thread(work: Callable[[], Answer]) -> Answer:
    """The answer or the error of `work`. Cancelling only stops waiting for it."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not answered.done():
            outcome()

    def run() -> None:
        try:
            outcome = partial(answered.set_result, work())
        except Exception as error:
            outcome = partial(answered.set_exception, error)
        # The loop is closed when the process ended first, and nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="beside", daemon=True).start()
    return await answered
