"""Parts of a far side that are away by themselves, as partitions of a topic are with their leaders.

Of the rows for a part that is away, a few stay in memory and are sent one by one, to try it. All
others leave memory, or are passed over when they are read, and each bucket's floor says from where
they are read again; so a part takes no room from the others, however many rows wait for it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from servicedesk.logs import Log
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import Lane, Line, Lines
from servicedesk.queue.row import QueuedRow
from servicedesk.queue.target import Target

# Lines that a part is tried with, in turn: one of them may be the trouble itself.
HELD_LINES = 16


@dataclass(slots=True, kw_only=True)
class Part:
    """A part that is away, or is back and not read again yet.

    `held`: lines of one row each, none of them under way. `trial`: the line it is tried with.
    `floors`: by bucket, where its rows are read again from when it is back; `oldest` is of those.
    """

    name: str
    lane: Lane
    circuit: Circuit
    held: deque[Line] = field(default_factory=deque)
    trial: Line | None = None
    floors: dict[int, int] = field(default_factory=dict)
    oldest: datetime | None = None
    is_back: bool = False

    def pass_over(self, row: QueuedRow) -> None:
        """The row is not in memory, and is read again when the part is back."""
        below = row.id - 1
        self.floors[row.bucket] = min(self.floors.get(row.bucket, below), below)
        self.oldest = min(self.oldest or row.created_at, row.created_at)

    @property
    def is_on_trial(self) -> bool:
        """A line is under way to it, or about to be. One that was dropped is neither."""
        return self.trial is not None and (self.trial.busy or self.trial.queued)


class Parts:
    """Those that are `away`, by name; empty at most times, and nothing is asked of it then.

    `wake` has the rows read again.
    """

    def __init__(
        self,
        *,
        lines: Lines,
        target: Target,
        create_circuit: Callable[[], Circuit],
        wake: Callable[[], None],
        log: Log,
    ) -> None:
        self._lines = lines
        self._target = target
        self._create_circuit = create_circuit
        self._wake = wake
        self._log = log
        self.away: dict[str, Part] = {}

    def away_part(self, key: str) -> Part | None:
        """The part of the key, when it is away."""
        part = self.away.get(self._target.part(key)) if self.away else None
        return part if part is not None and not part.is_back else None

    def has_part(self, key: str) -> bool:
        return self._target.part(key) != ""

    def lose(self, line: Line, error: str) -> Part:
        """A row of the line did not get through, while rows of others did: its part is away."""
        name = self._target.part(line.key)
        part = self.away.get(name)
        if part is None:
            part = Part(name=name, lane=line.lane, circuit=self._create_circuit())
            self.away[name] = part
        part.is_back = False
        part.circuit.trip(error)
        self._log.warning("part_away", receiver=line.lane.receiver, part=name, error=error)
        return part

    def fail(self, part: Part, line: Line, error: str) -> None:
        """A row of the line did not get through either."""
        if part.trial is line:
            part.trial = None
            part.circuit.trip(error)

    @property
    def are_all_away(self) -> bool:
        """Nothing is left of the far side, though it went away part by part."""
        away = sum(not part.is_back for part in self.away.values())
        return 0 < self._target.parts() <= away

    def trials_under_way(self, lane: Lane) -> int:
        parts = self.away.values()
        return sum(part.lane is lane and part.trial is not None and part.trial.busy
                   for part in parts)  # fmt: skip

    def detain(self, line: Line) -> bool:
        """Keep a line from being sent when its part is away; True then."""
        part = self.away_part(line.key)
        if part is None or part.trial is line:
            return False
        self.hold(part, line)
        return True

    def hold(self, part: Part, line: Line) -> None:
        """Keep the first row of the line, which is not under way, or none of it."""
        if len(part.held) >= self._most_held:
            part.pass_over(line.rows[0])
            self._lines.drop(line, again=False)
            return
        for row in self._lines.shorten(line):
            part.pass_over(row)
        line.queued = True
        part.held.append(line)

    @property
    def _most_held(self) -> int:
        """However many parts are away, half of the memory is left."""
        return max(1, min(HELD_LINES, self._lines.lane_rows // 4 // len(self.away)))

    def passes_over(self, row: QueuedRow) -> bool:
        """Is a row that was read to be left where it is? Where one of its bucket was, all later
        ones are, so that none overtakes another of its key."""
        part = self.away.get(self._target.part(row.key)) if self.away else None
        if part is None or row.id in self._lines.buckets[row.bucket].known:
            return False
        is_to_try_with = (
            len(part.held) < self._most_held
            and row.bucket not in part.floors
            and row.key not in self._lines.lines
        )
        if not is_to_try_with:
            part.pass_over(row)
        return not is_to_try_with

    def answered(self, rows: Iterable[QueuedRow]) -> None:
        """The far side took or refused the rows: their parts are there."""
        for row in rows:
            part = self.away_part(row.key)
            if part is not None:
                self._is_back(part)

    def _is_back(self, part: Part) -> None:
        part.is_back, part.trial = True, None
        part.lane.ready.extend(line for line in part.held if line.queued)
        part.held.clear()
        self._log.info("part_back", receiver=part.lane.receiver, part=part.name)
        self._wake()

    def try_due(self, now: float) -> bool:
        """Make a line ready for each part that is due to be tried; True when there is one."""
        found = False
        for part in self.away.values():
            due = part.circuit.probe_at <= now and not part.lane.circuit.is_open
            if part.is_back or part.is_on_trial or not due:
                continue
            found = True
            part.trial = self._next_held(part)
            if part.trial is None:
                # Nothing to try it with is left in memory: its rows are read again for that.
                self._is_back(part)
                continue
            part.circuit.probed(reachable=True)
            part.lane.ready.append(part.trial)
        return found

    @staticmethod
    def _next_held(part: Part) -> Line | None:
        while part.held:
            line = part.held.popleft()
            if line.queued:
                return line
        return None

    def take_back(self) -> list[Part]:
        """The parts that are back, which are then as any other. Between two reads, so that no
        read that passed over their rows admits later ones."""
        back = [part for part in self.away.values() if part.is_back]
        for part in back:
            del self.away[part.name]
        return back

    def forget_bucket(self, bucket: int) -> None:
        for part in self.away.values():
            part.floors.pop(bucket, None)

    def floors(self) -> Iterable[tuple[int, int]]:
        """Of each bucket with rows that were passed over, a floor below them."""
        return [pair for part in self.away.values() for pair in part.floors.items()]

    def oldest_row(self) -> datetime | None:
        times = [part.oldest for part in self.away.values() if part.oldest is not None]
        return min(times, default=None)
