"""What a daemon implements to be drained into: one Target, the broker or the channels."""

from collections.abc import Callable
from typing import Protocol

from servicedesk.queue.row import Failure, Outcome, QueuedRow

Settle = Callable[[QueuedRow, Outcome], None]


class BuryError(Exception):
    """The dead letter could not be published now; the row stays parked and is tried again."""


class Target(Protocol):
    """The far side. The queue never has two rows of one key under way at once."""

    def send(self, row: QueuedRow, settle: Settle, begun_at: float) -> None:
        """Start sending a row. Never blocks and never raises.

        `begun_at`, in seconds since the epoch, was read before the lease was looked at: nobody else
        sends the row until `send_seconds` later. Whatever holds this process up, a far side that
        refuses what is older than that never takes a copy from a worker that lost its lease.

        `settle(row, outcome)` is called exactly once for every send, on the event loop's thread,
        within a time well below the lease; it may be called before `send` returns. It calls
        nothing of the target.
        """

    def part(self, key: str) -> str:
        """The part of the far side that rows of the key go to, as a partition of a topic, which may
        be away while others are not. Empty where there are none, or it is not known yet.

        Asked for each row while a part is away, otherwise only of rows that did not get through.
        """

    def parts(self) -> int:
        """How many there are; 0 as above. Only with this call may the parts of keys change."""

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        """Publish the row's dead letter and return when it is acknowledged.

        Raises BuryError when that is not possible now. Repeating it is safe.
        """

    async def probe(self, receiver: str) -> bool:
        """Is the receiver reachable again? Asked while its circuit is open and cheap.

        A target that cannot tell without sending returns True: one row is then sent as the probe.
        """
