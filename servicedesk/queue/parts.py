"""Parts of a far side that are away by themselves, as partitions of a topic are with their leaders.

Of the rows for a part that is away, a few stay in memory and are sent one by one, to try it. All
others leave memory, or are passed over when they are read, and each bucket's floor says from where
they are read again; so a part takes no room from the others, however many rows wait for it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial

from servicedesk.logs import Log
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lines import STRIKES, Lane, Line, Lines
from servicedesk.queue.parking import Parking
from servicedesk.queue.part import Part, PassedOver
from servicedesk.queue.row import QueuedRow
from servicedesk.queue.target import Target

# Keys that a part is tried with, in turn: one of them may be the trouble itself.
HELD_LINES = 16
# When none was read so often, there is none, and the part is as any other.
MOST_TIMES_DRY = 5


class Parts:
    """Those that are `away`, by name; empty at most times, and nothing is asked of it then.

    `wake` has the rows read again.
    """

    def __init__(
        self,
        *,
        lines: Lines,
        parking: Parking,
        target: Target,
        create_circuit: Callable[[], Circuit],
        wake: Callable[[], None],
        log: Log,
    ) -> None:
        self._lines = lines
        self._parking = parking
        self._target = target
        self._create_circuit = create_circuit
        self._wake = wake
        self._log = log
        self._count = 0
        self.away: dict[str, Part] = {}

    def away_part(self, key: str) -> Part | None:
        """The part of the key, when it is away."""
        part = self.away.get(self._target.part(key)) if self.away else None
        return part if part is not None and not part.is_back else None

    def is_of(self, name: str, key: str) -> bool:
        return self._target.part(key) == name

    def has_part(self, key: str) -> bool:
        return self._target.part(key) != ""

    def lose(self, line: Line, error: str, *, others_got_through: bool) -> Part | None:
        """A row of the line did not get through, and its part is taken for away; None when its
        far side has no parts."""
        if not self.away:
            # What the target says of keys may change now, and not while a part is away.
            self._count = self._target.parts()
        name = self._target.part(line.key)
        if not name:
            return None
        part = self.away.get(name)
        if part is None:
            part = Part(name=name, lane=line.lane, circuit=self._create_circuit())
            self.away[name] = part
            self._share_room()
        elif part.is_back:
            part.is_back, part.is_told = False, False
            part.circuit = self._create_circuit()
        part.circuit.trip(error)
        if others_got_through:
            self._tell(part, error)
        return part

    def _tell(self, part: Part, error: str) -> None:
        """Once, and not of each part where it is all of the far side."""
        if not part.is_told:
            part.is_told = True
            self._log.warning("part_away", receiver=part.lane.receiver, part=part.name, error=error)

    def fail(self, part: Part, line: Line, error: str, *, others_got_through: bool) -> None:
        """A row of the line did not get through either."""
        if part.trial is line:
            part.trial = None
            part.circuit.trip(error)
            if others_got_through:
                line.strikes += 1
                self._tell(part, error)

    @property
    def are_all_away(self) -> bool:
        """Nothing is left of the far side, though it went away part by part."""
        return 0 < self._count <= sum(not part.is_back for part in self.away.values())

    def trials_under_way(self, lane: Lane) -> int:
        trials = [part.trial for part in self.away.values() if self._is_on_trial(part)]
        return sum(trial is not None and trial.busy and trial.lane is lane for trial in trials)

    def _is_on_trial(self, part: Part) -> bool:
        """A line is under way to it, or about to be; not when the line was dropped meanwhile."""
        return part.trial is not None and self._lines.lines.get(part.trial.key) is part.trial

    def detain(self, line: Line) -> bool:
        """Keep a line from being sent when its part is away; True then."""
        part = self.away_part(line.key)
        if part is None or part.trial is line:
            return False
        self.hold(part, line, has_failed=False)
        return True

    def hold(self, part: Part, line: Line, *, has_failed: bool) -> None:
        """Keep the first row of the line, which is not under way, or none of it."""
        if self._parking.postpone(line.key):
            # It waits for itself, and is read again from the row that was refused.
            self._lines.drop(line, again=False)
            return
        is_spent = line.strikes >= STRIKES
        if is_spent:
            part.spent.add(line.key)
        if is_spent or not self._has_room(part, len(line.rows[0].payload)):
            self._let_go(part, line)
            return
        for row in self._lines.shorten(line):
            part.behind.add(row.key)
            self._pass_over(part, row)
        line.queued = True
        if has_failed:
            part.held.append(line)
        else:
            part.held.appendleft(line)

    def _let_go(self, part: Part, line: Line) -> None:
        if line.key not in part.spent:
            part.closed.add(line.rows[0].bucket)
        for row in line.rows:
            self._pass_over(part, row)
        self._lines.drop(line, again=False)

    def _has_room(self, part: Part, more_bytes: int) -> bool:
        """For one more line. All parts share a quarter of the memory, and each has one line."""
        most = min(HELD_LINES, self._lines.lane_rows // 4 // len(self.away))
        most_bytes = self._lines.lane_bytes // 4 // len(self.away)
        held_bytes = sum(len(line.rows[0].payload) for line in part.held if line.queued)
        is_within = len(part.held) < most and held_bytes + more_bytes <= most_bytes
        return not part.held or is_within

    def _share_room(self) -> None:
        for part in self.away.values():
            lines, part.held = part.held, deque()
            for line in lines:
                if not line.queued:
                    continue
                if self._has_room(part, len(line.rows[0].payload)):
                    part.held.append(line)
                else:
                    self._let_go(part, line)

    def passes_over(self, row: QueuedRow) -> bool:
        """Is a row that was read to be left where it is? Then no later one of its key is admitted
        before it is read again: either none of its bucket is, or the key is known for it."""
        part = self.away.get(self._target.part(row.key)) if self.away else None
        if part is None or row.id in self._lines.buckets[row.bucket].known:
            return False
        if not part.is_back and self._parking.postpone(row.key):
            return True
        if row.key in self._lines.lines:
            part.behind.add(row.key)
        elif row.key not in part.behind and row.key not in part.spent:
            is_open = not part.is_back and row.bucket not in part.closed
            if is_open and self._has_room(part, len(row.payload)):
                return False
            part.closed.add(row.bucket)
        self._pass_over(part, row)
        return True

    def _pass_over(self, part: Part, row: QueuedRow) -> None:
        """The row is not in memory, and is read again later."""
        self._lines.buckets[row.bucket].passed_over.add(row.id)
        below = row.id - 1
        passed = part.passed.get(row.bucket)
        if passed is None:
            part.passed[row.bucket] = PassedOver(below, row.created_at, looked=below, last=row.id)
        else:
            passed.last = max(passed.last, row.id)
            passed.floor = min(passed.floor, below)
            passed.oldest = min(passed.oldest, row.created_at)
            if row.key not in part.spent:
                passed.looked = min(passed.looked, below)

    def answered(self, rows: Iterable[QueuedRow]) -> None:
        """The far side took or refused the rows: their parts are there."""
        for row in rows:
            part = self.away_part(row.key)
            if part is not None:
                self._is_back(part)

    def _is_back(self, part: Part) -> None:
        part.is_back, part.trial, part.runs_dry = True, None, False
        part.lane.ready.extend(line for line in part.held if line.queued)
        part.held.clear()
        if part.is_told:
            self._log.info("part_back", receiver=part.lane.receiver, part=part.name)
        self._wake()

    def try_due(self, now: float) -> bool:
        """Make a line ready for each part that is due to be tried; True when there is one."""
        found = False
        for part in self.away.values():
            is_due = part.circuit.probe_at <= now and not part.lane.circuit.is_open
            if part.is_back or part.runs_dry or self._is_on_trial(part) or not is_due:
                continue
            found = True
            part.trial = self._next_held(part)
            if part.trial is not None:
                part.times_dry = 0
                part.circuit.probed(reachable=True)
                part.lane.ready.append(part.trial)
            elif part.passed and part.times_dry < MOST_TIMES_DRY:
                part.times_dry += 1
                part.circuit.probed(reachable=False)
                self._begin_search(part)
            else:
                self._is_back(part)  # nothing waits for it any longer
        return found

    @staticmethod
    def _next_held(part: Part) -> Line | None:
        while part.held:
            line = part.held.popleft()
            if line.queued:
                return line
        return None

    def _begin_search(self, part: Part) -> None:
        """For keys to try the part with. It ends with the last row there is now, because more of
        those that it was tried with may come all the time."""
        part.runs_dry = True
        for passed in part.passed.values():
            passed.look_to = passed.last
        self._wake()

    def take_back(self) -> list[Part]:
        """The parts that are back: as any other from now on, and their rows to be read again.
        Between two reads, so that none that passed over a row admits later ones."""
        found = [part for part in self.away.values() if part.is_back]
        for part in found:
            del self.away[part.name]
            self._parking.hasten(partial(self.is_of, part.name))
        return found

    def has_passed_over(self, bucket: int) -> bool:
        return any(bucket in part.passed for part in self.away.values())

    def forget_bucket(self, bucket: int) -> None:
        for part in self.away.values():
            part.passed.pop(bucket, None)
            part.closed.discard(bucket)

    def floors(self) -> Iterable[tuple[int, int]]:
        """Of each bucket with rows that were passed over, a floor below them."""
        return [
            (bucket, passed.floor)
            for part in self.away.values()
            for bucket, passed in part.passed.items()
        ]

    def oldest_row(self) -> datetime | None:
        times = [p.oldest for part in self.away.values() for p in part.passed.values()]
        return min(times, default=None)
