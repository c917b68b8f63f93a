"""Sends rows and takes their outcomes: the rules of order, parking, circuits and dead letters.

At most one row of a key is under way. An answer for one row never holds back another key; a far
side that is away holds back its own lane, a part of it its own keys, and neither counts an attempt.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime

from servicedesk.database import storable
from servicedesk.logs import Log
from servicedesk.queue.ledger import Ledger
from servicedesk.queue.lines import STRIKES, Lane, Line, Lines
from servicedesk.queue.metrics import QueueMetrics
from servicedesk.queue.parking import ParkedKey, Parking
from servicedesk.queue.parts import Parts
from servicedesk.queue.row import (
    Acknowledged,
    Failure,
    Outcome,
    QueuedRow,
    Rejected,
    Unreachable,
)
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.target import BuryError, Target

ERROR_CHARACTERS = 1000


class Sending:
    """`send_until` tells until when, by the monotonic clock, rows may go out; `spawn` starts
    a task, whose failure is fatal."""

    def __init__(
        self,
        *,
        lines: Lines,
        parking: Parking,
        parts: Parts,
        ledger: Ledger,
        target: Target,
        settings: DrainSettings,
        metrics: QueueMetrics,
        log: Log,
        send_until: Callable[[], float],
        random: Callable[[], float],
        spawn: Callable[[Coroutine[None, None, None]], object],
    ) -> None:
        self._lines = lines
        self._parking = parking
        self._parts = parts
        self._ledger = ledger
        self._target = target
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._send_until = send_until
        self._random = random
        self._loop = asyncio.get_running_loop()
        self._spawn = spawn
        self._dispatch_due = False
        self._arrived: list[QueuedRow] = []
        self.closed = False

    def dispatch_soon(self) -> None:
        """Send what may be sent, once in this turn of the loop."""
        if not self._dispatch_due:
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_due = False
        self._take_arrived()
        if self.closed:
            return
        for lane in self._lines.lanes.values():
            self._dispatch_lane(lane)

    def _dispatch_lane(self, lane: Lane) -> None:
        """Send from the lines of a lane in turn. What is looked up outside of the loop does not
        change while it runs."""
        now = self._loop.time()
        lines, send, settle, until = self._lines, self._target.send, self.settle, self._send_until()
        most = self._settings.narrow_lanes.get(lane.receiver, self._settings.lane_in_flight)
        buckets, circuit, ready = lines.buckets, lane.circuit, lane.ready
        most = circuit.most_under_way(most)
        is_parked = len(self._parking) > 0
        is_away = bool(self._parts.away)
        if is_away:
            # They say nothing of the others, and hold up none of them.
            most += self._parts.trials_under_way(lane)
        while ready and lane.in_flight < most and not circuit.is_open:
            # For every row, and the time first: this process may be stopped between any two lines.
            begun_at = time.time()
            if time.monotonic() >= until:
                return
            line = ready.popleft()
            if not line.queued:
                continue  # dropped meanwhile
            line.queued = False
            row = line.rows[0]
            bucket = buckets[row.bucket]
            if bucket.epoch is None or bucket.leaving:
                lines.drop(line, again=True)
                continue
            if is_away and self._parts.detain(line):
                continue
            lines.begin(line, bucket, now)
            if is_parked and self._bury_exhausted(row):
                continue
            send(row, settle, begun_at)

    def _bury_exhausted(self, row: QueuedRow) -> bool:
        """Begin to bury a row that has had its last attempt."""
        failed = self._parking.failures(row)
        if failed is None or failed.attempts < self._settings.max_attempts:
            return False
        self._spawn(self._bury(row, failed))
        return True

    def settle(self, row: QueuedRow, outcome: Outcome) -> None:
        """Take the outcome of a send; called once a send, on the loop's thread. Rows that arrived
        are taken together, in this turn of the loop, and before anything that comes after them."""
        if isinstance(outcome, Acknowledged):
            self._arrived.append(row)
        else:
            self._take_arrived()
            line = self._lines.end(row)
            # Anything may be in it, and what the database refuses would end this worker.
            outcome = replace(outcome, error=storable(outcome.error)[:ERROR_CHARACTERS])
            if isinstance(outcome, Rejected):
                self._reject(line, row, outcome)
            else:
                self._hold(line, row, outcome)
        if not self._dispatch_due:
            self.dispatch_soon()

    def _answered(self, lane: Lane) -> None:
        lane.answered_at = self._loop.time()
        if lane.circuit.answered():
            self._metrics.show_circuit(lane.receiver, is_open=False)
            self._log.info("circuit_closed", receiver=lane.receiver)

    def _take_arrived(self) -> None:
        if not self._arrived:
            return
        rows, self._arrived = self._arrived, []
        for receiver in self._lines.finish(rows):
            self._answered(self._lines.lane(receiver))
        if self._parts.away:
            self._parts.answered(rows)
        self._metrics.count_arrived(rows, datetime.now(UTC))
        self._ledger.acknowledge(rows)

    def _reject(self, line: Line, row: QueuedRow, outcome: Rejected) -> None:
        self._answered(line.lane)
        self._parts.answered([row])
        self._metrics.labelled(self._metrics.rejected, row.receiver).inc()
        failed = self._parking.failures(row)
        attempts = (failed.attempts if failed else 0) + 1
        self._log.warning(
            "row_rejected",
            receiver=row.receiver,
            key=row.key,
            event_id=row.event_id,
            attempts=attempts,
            error=outcome.error,
        )
        wait = self._settings.retry.delay_seconds(attempts, self._random)
        wait = max(wait, outcome.retry_after_seconds or 0.0)
        # Nothing to wait for after the last attempt: once it is saved, the row is buried.
        is_last = attempts >= self._settings.max_attempts
        self._park(line, row, outcome.error, attempts, 0.0 if is_last else wait)

    def _park(
        self, line: Line, row: QueuedRow, error: str, attempts: int, wait_seconds: float
    ) -> None:
        """Everything of the key leaves memory and is read again when the wait is over."""
        current = self._lines.is_current(line, row)
        self._lines.drop(line, again=not current)
        if not current:
            self._lines.buckets[row.bucket].unsettled -= 1
            return
        parked = self._parking.fail(
            row,
            error=error,
            attempts=attempts,
            wait_seconds=wait_seconds,
            failed_at=datetime.now(UTC),
        )
        self._ledger.park(parked)

    def _hold(self, line: Line, row: QueuedRow, outcome: Unreachable) -> None:
        lane = line.lane
        others_got_through = lane.answered_at > line.sent_at
        part = self._parts.away_part(row.key)
        if part is not None:
            self._parts.fail(part, line, outcome.error, others_got_through=others_got_through)
            is_all_away = not others_got_through and self._parts.are_all_away
        elif others_got_through and self._is_itself_the_trouble(line, row, outcome):
            return
        else:
            is_all_away = not (others_got_through and self._parts.has_part(row.key))
        if is_all_away:
            self._trip(lane, outcome.error)
        if part is None and not outcome.is_everywhere:
            part = self._parts.lose(line, outcome.error, others_got_through=others_got_through)
        self._lines.buckets[row.bucket].unsettled -= 1
        if not self._lines.is_current(line, row):
            self._lines.drop(line, again=True)
        elif part is not None:
            self._parts.hold(part, line, has_failed=True)
        else:
            # To the end of its lane, so that after the outage another key may be the first to try.
            self._lines.make_ready(line)

    def _is_itself_the_trouble(self, line: Line, row: QueuedRow, outcome: Unreachable) -> bool:
        """Then it has been dealt with: it waits by itself."""
        line.strikes += 1
        times_aside = self._parking.times_aside(row)
        if line.strikes < STRIKES and not times_aside:
            return False
        if not self._parts.has_part(row.key):
            self._reject(line, row, Rejected(error=outcome.error))
        else:
            wait = self._settings.retry.delay_seconds(STRIKES + times_aside, self._random)
            self._set_aside(line, row, outcome, wait)
        return True

    def _trip(self, lane: Lane, error: str) -> None:
        if lane.circuit.trip(error):
            self._metrics.show_circuit(lane.receiver, is_open=True)
            self._log.warning("circuit_opened", receiver=lane.receiver, error=error)

    def _set_aside(
        self, line: Line, row: QueuedRow, outcome: Unreachable, wait_seconds: float
    ) -> None:
        """The key's part is well, and this row does not get there: no attempt is counted."""
        current = self._lines.is_current(line, row)
        self._lines.drop(line, again=not current)
        self._lines.buckets[row.bucket].unsettled -= 1
        if current:
            self._parking.set_aside(
                row,
                error=outcome.error,
                wait_seconds=wait_seconds,
                failed_at=datetime.now(UTC),
            )

    def probe_circuits(self) -> None:
        """Start the probes that are due."""
        for lane in self._lines.lanes.values():
            if lane.circuit.is_open and lane.circuit.probe_at <= self._loop.time():
                lane.circuit.probe_at = float("inf")
                self._spawn(self._probe(lane))
        if self._parts.away and self._parts.try_due(self._loop.time()):
            self.dispatch_soon()

    async def _probe(self, lane: Lane) -> None:
        reachable = await self._target.probe(lane.receiver)
        lane.circuit.probed(reachable=reachable)
        self.dispatch_soon()

    async def _bury(self, row: QueuedRow, failed: ParkedKey) -> None:
        """The row is under way until its dead letter is acknowledged and the row is moved.

        `failed` is handed over, because the bucket may be lost before this begins to run.
        """
        failure = Failure(
            error=failed.error, attempts=failed.attempts, first_failed_at=failed.first_failed_at
        )
        try:
            await self._target.bury(row, failure)
        except BuryError as error:
            self._log.warning("bury_postponed", key=row.key, error=str(error))
            wait = self._settings.retry.delay_seconds(failed.attempts, self._random)
            self._park(self._lines.end(row), row, failed.error, failed.attempts, wait)
        else:
            await self._ledger.bury(row, failure)
            self._metrics.labelled(self._metrics.dead, row.receiver).inc()
            self._log.error(
                "row_dead", receiver=row.receiver, key=row.key, event_id=row.event_id,
                attempts=failure.attempts, reason=failure.error,
            )  # fmt: skip
            self._lines.pop(self._lines.end(row))
        self.dispatch_soon()
