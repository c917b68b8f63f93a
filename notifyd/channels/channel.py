"""What every channel offers, and how a failure is put into one line."""

import re
from typing import Protocol

from servicedesk.database import storable
from servicedesk.queue.row import Outcome, QueuedRow

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
ERROR_CHARACTERS = 300


class Channel(Protocol):
    """One receiver. `deliver` runs side by side for rows of different tickets."""

    # The longest a delivery takes, in seconds; the channel keeps to it by itself.
    timeout_seconds: float

    async def deliver(self, row: QueuedRow) -> Outcome:
        """Hand the row over once. Failures of the receiver are outcomes, not exceptions."""

    async def probe(self) -> bool:
        """May the receiver be tried again? Cheap; True when only sending can tell."""

    async def close(self) -> None:
        """Release connections; nothing is delivered afterwards."""


def single_line(text: str) -> str:
    """The text without line breaks and control characters, for headers and log fields."""
    return CONTROL.sub(" ", text).strip()


def failure_text(kind: str, message: object) -> str:
    """ "Class: message", on one line, of bounded length, and as every table and log takes it."""
    return f"{kind}: {storable(single_line(str(message)))[:ERROR_CHARACTERS]}"
