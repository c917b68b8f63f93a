"""Ctrl-C, SIGTERM and SIGHUP: the first asks the stack to stop in order, another one to stop now.

A signal becomes an exception only where the code says that it may, so that no child is started and
forgotten.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The terminal, make and a supervisor may each pass on the same wish.
SAME_WISH_SECONDS = 1.0


class StopRequested(Exception):  # noqa: N818 - a wish, not an error
    """Somebody asked the stack to stop."""


class Interrupt:
    """Takes the signals over from construction on."""

    def __init__(self, on_second: Callable[[], None]) -> None:
        self._on_second = on_second
        self._asked_at: float | None = None
        self._raising = False
        self.is_second = False
        for number in SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """StopRequested may be raised anywhere in the block, or at once if it was asked before."""
        self._raising = True
        try:
            if self._asked_at is not None:
                raise StopRequested
            yield
        finally:
            self._raising = False

    def _handle(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            if self._raising:
                raise StopRequested
        elif now - self._asked_at > SAME_WISH_SECONDS:
            self.is_second = True
            self._on_second()
