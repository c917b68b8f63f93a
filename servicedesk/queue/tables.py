"""The two sets of tables that the one mechanism runs on. Names here are the only identifiers that
are ever put into SQL text, and they are constants."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTables:
    """`name` is the table of rows; `name`_bucket, _worker, _parked and _dead stand beside it.

    `has_receiver`: rows carry a receiver and the key is receiver and ticket.
    `keeps_done`: an acknowledged row leaves a record in `name`_done.
    """

    name: str
    has_receiver: bool
    keeps_done: bool


OUTBOX = QueueTables(name="outbox", has_receiver=False, keeps_done=False)
DELIVERY = QueueTables(name="delivery", has_receiver=True, keeps_done=True)
