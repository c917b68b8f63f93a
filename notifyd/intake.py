"""The first stage: a batch of records becomes inbox rows and deliveries, or dead letters.

When `take_in` returns, every record of the batch is in the database or on the dead letter topic
for good, so its offsets may be committed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple

import psycopg

from notifyd.dead_letters import DeadLetters
from notifyd.metrics import IngestMetrics
from notifyd.record import Arrival, Record, check_headers, read_arrival
from notifyd.store import InboxStore, Packed
from servicedesk.backoff import Backoff
from servicedesk.database import AWAY
from servicedesk.event import MalformedEventError
from servicedesk.logs import Log
from servicedesk.queue.target import BuryError

OK = "ok"
# The values of one event, not the database's state: another event may well pass.
ABOUT_THE_EVENT = (psycopg.DataError, psycopg.IntegrityError)

Malformed = tuple[Record, MalformedEventError]


class Batch(NamedTuple):
    """Records in their order, and what each of them is."""

    arrivals: Sequence[Arrival]
    packed: Packed
    malformed: Sequence[Malformed]

    def __len__(self) -> int:
        return len(self.arrivals) + len(self.malformed)


class Intake:
    """Used by one batch at a time. `random` returns a number in [0, 1), `now` is the wall clock."""

    def __init__(
        self,
        *,
        store: InboxStore,
        dead_letters: DeadLetters,
        metrics: IngestMetrics,
        log: Log,
        backoff: Backoff,
        random: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._log = log
        self._backoff = backoff
        self._random = random
        self._now = now
        # Replaced as a whole, so that the admin port's threads may read it.
        self._state = {"database": OK, "dead_letters": OK}

    def prepare(self, records: Sequence[Record]) -> Batch:
        """On any thread: while the batch before is on its way into the database."""
        arrivals: list[Arrival] = []
        malformed: list[Malformed] = []
        for record in records:
            try:
                arrival = read_arrival(record)
                # Only then, because they take longer to read than all the rest of the record.
                if self._store.wants(arrival.event_type):
                    check_headers(record)
                arrivals.append(arrival)
            except MalformedEventError as error:
                malformed.append((record, error))
        return Batch(arrivals, self._store.pack(arrivals), malformed)

    def readiness(self) -> dict[str, str]:
        """ "ok" or the reason why batches wait, for the database and for the dead letter topic."""
        return self._state

    async def take_in(self, batch: Batch) -> int:
        """Returns how many deliveries were queued. Keeps trying until it is done; cancelling it
        is safe, the batch is then taken in again."""
        started = monotonic()
        queued, refused = await self._store_all(batch.arrivals, batch.packed)
        for record, error in [*batch.malformed, *refused]:
            await self._bury(record, error)
        self._metrics.batch_records.observe(len(batch))
        self._metrics.batch_seconds.observe(monotonic() - started)
        return queued

    async def _store_all(
        self, arrivals: Sequence[Arrival], packed: Packed
    ) -> tuple[int, list[Malformed]]:
        """Halves a batch that the database refuses until the guilty event stands alone."""
        if not arrivals:
            return 0, []
        try:
            return await self._persist("database", lambda: self._ingest(packed)), []
        except ABOUT_THE_EVENT as error:
            if len(arrivals) == 1:
                cause = MalformedEventError(f"refused by the database: {error.sqlstate}")
                cause.__cause__ = error
                return 0, [(arrivals[0].record, cause)]
        middle = len(arrivals) // 2
        queued, refused = 0, list[Malformed]()
        for half in (arrivals[:middle], arrivals[middle:]):
            more_queued, more_refused = await self._store_all(half, self._store.pack(half))
            queued += more_queued
            refused += more_refused
        return queued, refused

    async def _ingest(self, packed: Packed) -> int:
        found = await self._store.ingest(packed)
        self._metrics.ingested.inc(found.fresh)
        self._metrics.duplicates.inc(packed.events - found.fresh)
        return found.deliveries

    async def _bury(self, record: Record, error: MalformedEventError) -> None:
        failed_at = self._now()

        async def bury() -> int:
            await self._dead_letters.bury_record(record, error, failed_at)
            return 1

        await self._persist("dead_letters", bury)
        self._metrics.malformed.inc()
        self._log.warning(
            "record_malformed",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=str(error),
        )

    async def _persist(self, what: str, act: Callable[[], Awaitable[int]]) -> int:
        """Repeat while the other side is away; what waits is what may not be lost."""
        attempts = 0
        while True:
            try:
                done = await act()
            except ABOUT_THE_EVENT:
                raise
            except (*AWAY, psycopg.Error, BuryError) as error:
                attempts += 1
                self._note(what, error)
            else:
                self._note_ok(what)
                return done
            await asyncio.sleep(self._backoff.delay_seconds(attempts, self._random))

    def _note(self, what: str, error: Exception) -> None:
        if self._state[what] == OK:
            # Once for each time it goes away, not once for each attempt.
            self._log.error("intake_waits", error=error, waits_for=what)
        self._state = {**self._state, what: f"away: {type(error).__name__}"}

    def _note_ok(self, what: str) -> None:
        if self._state[what] != OK:
            self._log.info("intake_goes_on", waited_for=what)
            self._state = {**self._state, what: OK}
