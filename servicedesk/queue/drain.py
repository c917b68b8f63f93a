"""The worker of an ordered queue: leases buckets, reads their rows in order, sends, completes.

Nothing committed is lost, at worst repeated; per key the order of ids is the order of arrival; a
key or receiver that cannot progress holds back only itself; no transaction is open while the far
side is talked to.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from servicedesk.backoff import Backoff
from servicedesk.database import AWAY
from servicedesk.logs import Log
from servicedesk.queue.backlog import Backlog
from servicedesk.queue.circuit import Circuit
from servicedesk.queue.lease_store import Lease, LeaseStore
from servicedesk.queue.leases import Leases
from servicedesk.queue.ledger import Ledger
from servicedesk.queue.lines import Lines
from servicedesk.queue.metrics import QueueMetrics
from servicedesk.queue.parking import Parking
from servicedesk.queue.parts import Parts
from servicedesk.queue.reading import Reading
from servicedesk.queue.refresh import Refresh
from servicedesk.queue.sending import Sending
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.store import QueueStore
from servicedesk.queue.target import Target

PAUSE = Backoff(base_seconds=0.1, cap_seconds=2.0)
PROBE_TICK_SECONDS = 0.05
NOT_ASKED = "not asked yet"


class Drain:
    """Drains one set of tables into one target. Construct it inside the running loop."""

    def __init__(
        self,
        *,
        store: QueueStore,
        leases: LeaseStore,
        target: Target,
        settings: DrainSettings,
        metrics: QueueMetrics,
        log: Log,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._target = target
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._random = random
        self._loop = asyncio.get_running_loop()
        now = self._loop.time
        new_circuit = partial(Circuit, settings.probe, now, random)
        self._lines = Lines(settings, new_circuit)
        self._parking = Parking(now)
        self._wake = asyncio.Event()
        self._parts = Parts(
            lines=self._lines, parking=self._parking, target=target, create_circuit=new_circuit,
            wake=self.wake, log=log,
        )  # fmt: skip
        self._leases = Leases(
            store=leases,
            holder=self,
            lease_seconds=settings.lease_seconds,
            send_seconds=settings.send_seconds,
        )
        self._ledger = Ledger(
            store=store,
            owner=leases.owner,
            lines=self._lines,
            parking=self._parking,
            batch_rows=settings.complete_rows,
            log=log,
            random=random,
        )
        self._reading = Reading(
            store=store, lines=self._lines, parking=self._parking, parts=self._parts,
            settings=settings,
        )  # fmt: skip
        self._parked = Refresh(
            store=store, lines=self._lines, parking=self._parking, reading=self._reading,
            ledger=self._ledger,
        )  # fmt: skip
        self._backlog = Backlog(store, self._lines, self._parts, settings.refresh_seconds)
        self._database_error: str | None = NOT_ASKED
        self._look_at = 0.0
        self._look_pause = settings.look_seconds
        self._refresh_at = 0.0

    # What the leases tell (Holder).

    def gain(self, lease: Lease) -> None:
        self._lines.buckets[lease.bucket].gain(lease.epoch)
        self._refresh_at = 0.0
        self._wake.set()

    def leave(self, bucket: int) -> None:
        self._lines.buckets[bucket].leaving = True
        self._lines.drop_bucket(bucket)

    def is_settled(self, bucket: int) -> bool:
        return self._lines.buckets[bucket].unsettled == 0

    def lose(self, bucket: int) -> None:
        self._lines.drop_bucket(bucket)
        self._parking.forget_bucket(bucket)
        self._parts.forget_bucket(bucket)
        self._lines.buckets[bucket].epoch = None
        for lane in self._lines.lanes.values():
            if lane.aside is not None:
                lane.aside.pop(bucket, None)

    # For the daemon.

    def wake(self) -> None:
        """New rows may be there. Call it on the loop's thread."""
        self._wake.set()

    def readiness(self) -> dict[str, str]:
        """The checks of /readyz; callable from any thread."""
        database = self._database_error
        if database is None and not self._leases.may_send:
            database = "the leases are not renewed"
        return {"database": "ok" if database is None else f"away: {database}"}

    def open_circuits(self) -> dict[str, str]:
        """Receivers that nothing has got to since they were away, and why; from any thread."""
        lanes = [lane for lane in list(self._lines.lanes.values()) if not lane.circuit.is_closed]
        return {lane.receiver: lane.circuit.error or "away" for lane in lanes}

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until `stop` is set, then finish what is under way and release the buckets.

        Errors that are not "the database is away" rise: they are faults of the program.
        """
        tasks: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:

                def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                    task = group.create_task(work)
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    return task

                sending = self._create_sending(spawn)
                reading = spawn(self._read(sending))
                spawn(self._backlog.run())
                for work in (self._ledger.run(), self._keep_leases(), self._probe(sending)):
                    spawn(work)
                await stop.wait()
                sending.closed = True
                reading.cancel()
                await self._finish()
                for task in tasks:
                    task.cancel()
            await self._release()
        finally:
            await self._store.close()

    def _create_sending(self, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> Sending:
        return Sending(
            lines=self._lines, parking=self._parking, parts=self._parts, ledger=self._ledger,
            target=self._target, settings=self._settings, metrics=self._metrics, log=self._log,
            send_until=lambda: self._leases.send_until, random=self._random, spawn=spawn,
        )  # fmt: skip

    async def _finish(self) -> None:
        """Wait, within the bound, until the rows under way are settled and written."""
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                # Polled, because a row settles 50,000 times a second and stopping is rare.
                while self._lines.in_flight:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                await self._ledger.settled()
        except TimeoutError:
            self._log.warning("drain_cut_short", in_flight=self._lines.in_flight)

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._leases.release_all()
        except (TimeoutError, *AWAY) as error:
            self._log.warning("leases_left_to_expire", error=str(error))

    # The loops.

    async def _keep_leases(self) -> None:
        failures = 0
        while True:
            try:
                change = await self._leases.keep()
            except AWAY as error:
                failures += 1
                self._away(error)
                await asyncio.sleep(PAUSE.delay_seconds(failures, self._random))
                continue
            failures = 0
            self._metrics.lease_lost.inc(change.lost)
            self._metrics.buckets.set(self._leases.count)
            if change.lost or change.gained or change.released:
                self._log.info(
                    "leases_changed", gained=change.gained, lost=change.lost,
                    released=change.released, held=self._leases.count,
                )  # fmt: skip
            self._wake.set()
            await asyncio.sleep(
                self._settings.lease_seconds / (30 if self._leases.is_leaving else 3)
            )

    async def _read(self, sending: Sending) -> None:
        failures, pause = 0, self._settings.poll_min_seconds
        while True:
            self._wake.clear()
            try:
                found = self._leases.may_send and await self._turn()
            except AWAY as error:
                failures += 1
                self._away(error)
                await self._sleep(PAUSE.delay_seconds(failures, self._random))
                continue
            if self._leases.may_send:
                failures = 0
                self._back()
            sending.dispatch_soon()
            if found:
                pause = self._settings.poll_min_seconds
                continue
            woken = await self._sleep(self._next_pause(pause))
            pause = self._settings.poll_min_seconds if woken else pause * 2
            pause = min(pause, self._settings.poll_max_seconds)

    def _next_pause(self, pause: float) -> float:
        """A look at the horizon, or memory that was full, comes sooner than an idle table."""
        if self._reading.is_starved:
            return self._settings.poll_min_seconds
        if self._reading.wants_look:
            until_look = self._look_at - self._loop.time()
            return min(pause, max(self._settings.poll_min_seconds, until_look))
        return pause

    async def _sleep(self, seconds: float) -> bool:
        """Sleep until woken, at most so long; True when woken."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _turn(self) -> bool:
        if self._loop.time() >= self._refresh_at:
            self._refresh_at = self._loop.time() + self._settings.refresh_seconds
            await self._refresh()
        if self._loop.time() >= self._look_at and self._reading.wants_look:
            await self._reading.raise_horizon()
            self._look_at = self._loop.time() + self._look_pause
            # Less and less often while nothing moves, as behind a writer that stays open.
            self._look_pause = min(2 * self._look_pause, self._settings.refresh_seconds)
        found = await self._reading.read()
        if found:
            self._look_pause = self._settings.look_seconds
            self._look_at = min(self._look_at, self._loop.time() + self._look_pause)
        return found

    async def _refresh(self) -> None:
        """Take over what was changed elsewhere, and show the state."""
        await self._reading.raise_horizon()
        await self._parked.run()
        self._metrics.show_waiting(self._lines, self._parking, self._parts, self._backlog.unread)

    async def _probe(self, sending: Sending) -> None:
        while True:
            sending.probe_circuits()
            await asyncio.sleep(PROBE_TICK_SECONDS)

    def _away(self, error: BaseException) -> None:
        if self._database_error in {None, NOT_ASKED}:
            self._log.warning("database_away", error=str(error))
        self._database_error = type(error).__name__

    def _back(self) -> None:
        if self._database_error not in {None, NOT_ASKED}:
            self._log.info("database_back")
        self._database_error = None
