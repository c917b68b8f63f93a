"""What is kept of one part of the far side that is away; see parts.py."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Lane, Line


@dataclass(slots=True)
class PassedOver:
    """Rows of one bucket that are not in memory: the floor below them, the oldest's time, and the
    `last` of them. `looked`: up to there no key is left that the part could be tried with.
    `look_to`: where the search for one ends.
    """

    floor: int
    oldest: datetime
    looked: int
    last: int
    look_to: int = 0


@dataclass(slots=True, kw_only=True)
class Part:
    """A part that is away, or is back and not read again yet.

    `held`: lines of one row each, none of them under way, those that have not failed first.
    `trial`: the line that it is tried with. `passed`: by bucket, what waits in the database.
    `spent`: keys that it is not tried with again. `behind`: keys of which rows were passed over
    behind one in memory. `closed`: buckets that nothing is admitted of, because rows of other keys
    were passed over. `runs_dry`: lines to try it with are to be read, for the `times_dry`th time in
    a row.
    """

    name: str
    lane: Lane
    circuit: Circuit
    held: deque[Line] = field(default_factory=deque)
    trial: Line | None = None
    passed: dict[int, PassedOver] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    behind: set[str] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    is_told: bool = False
    runs_dry: bool = False
    times_dry: int = 0
    is_back: bool = False
