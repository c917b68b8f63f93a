"""What goes on beside a fault: a load on ticketd.

Faults are done by the test's own thread: a daemon ends with the thread that started it.
"""

import threading

from tests.pipeline.pipeline import Pipeline
from tests.support.load import Load
from tests.support.processes import Daemon


class BackgroundLoad:
    """A load in a thread of its own from the construction on; `finish` waits for its end."""

    def __init__(self, pipeline: Pipeline, ticketd: Daemon, *, tickets: int, events: int) -> None:
        self._result: Load | None = None

        def run() -> None:
            self._result = pipeline.load(ticketd, tickets=tickets, events=events)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def ends_within(self, seconds: float) -> bool:
        """Wait for so long; True as soon as it has ended. The clock of what is done meanwhile."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self, seconds: float) -> Load:
        assert self.ends_within(seconds), f"the load has not ended after {seconds:g} s"
        assert self._result is not None, "the load failed; its traceback is above"
        return self._result
