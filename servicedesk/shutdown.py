"""Stopping on SIGTERM and SIGINT, once and in time."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import uvloop

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_event() -> asyncio.Event:
    """An event of the running loop that the first SIGTERM or SIGINT sets."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, event.set)
    return event


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a daemon's main coroutine on uvloop and return its exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
