"""Reads the rows of this worker's buckets in order: floors, stragglers, and what is set aside.

The highest id read per bucket is kept, and the next read starts above it, so dead index entries are
not visited again. Ids become visible out of order, so each read also looks, in the same snapshot,
between that floor and a safe floor below which nothing can still appear: a row is never taken
without the earlier ones of its key.
"""

from collections.abc import Mapping, Sequence

from servicedesk.queue.horizon import Horizon
from servicedesk.queue.lines import Bucket, Lane, Lines
from servicedesk.queue.parking import ParkedKey, Parking
from servicedesk.queue.parts import Parts
from servicedesk.queue.row import Most, QueuedRow
from servicedesk.queue.settings import DrainSettings
from servicedesk.queue.store import QueueStore
from servicedesk.queue.trials import Trials

# Keys whose own rows are read at once.
AGAIN_KEYS = 16


class Reading:
    """All of it runs in one task, so floors never change under a read."""

    def __init__(
        self,
        *,
        store: QueueStore,
        lines: Lines,
        parking: Parking,
        parts: Parts,
        settings: DrainSettings,
    ) -> None:
        self._store = store
        self._lines = lines
        self._parking = parking
        self._parts = parts
        self._settings = settings
        self._trials = Trials(rows=store.rows, lines=lines, parking=parking, parts=parts)
        self._horizon = Horizon()
        self._server = ""
        # Keys that are due, whose own rows are read.
        self._again: list[ParkedKey] = []

    def _ours(self) -> list[Bucket]:
        return [bucket for bucket in self._lines.buckets if bucket.is_ours]

    def _most_each(self, buckets: int) -> Most:
        rows = max(16, self._settings.read_rows // max(1, buckets))
        # What has_room leaves is half of the bound.
        payload_bytes = max(1, self._settings.lane_bytes // 2 // max(1, buckets))
        return Most(rows=rows, payload_bytes=payload_bytes)

    async def read(self) -> bool:
        """Read what is new, and let lanes that are aside catch up. True when rows came in."""
        self._resume_due()
        self._rejoin_parts()
        found = await self._read_keys() if self._again else False
        if self._has_room():
            found = await self._read_new() or found
        if self._parts.away:
            found = await self._trials.read() or found
        for lane in list(self._lines.lanes.values()):
            if lane.aside is not None and not lane.circuit.is_open and self._lines.has_room(lane):
                found = await self._catch_up(lane, lane.aside) or found
        return found

    def _has_room(self) -> bool:
        """Lanes of a queue with receivers are set aside one by one; the outbox is one lane."""
        if self._store.tables.has_receiver:
            return True
        return all(self._lines.has_room(lane) for lane in self._lines.lanes.values())

    @property
    def is_starved(self) -> bool:
        """Rows may be waiting that there was no room for."""
        lanes = self._lines.lanes.values()
        return not self._has_room() or any(
            lane.aside is not None and not lane.circuit.is_open for lane in lanes
        )

    def _resume_due(self) -> None:
        for parked in self._parking.take_due():
            if self._parts.away_part(parked.key) is not None:
                self._parking.postpone(parked.key)
            elif not self._parts.has_passed_over(parked.bucket):
                self.resume(parked)
            elif len(self._again) < AGAIN_KEYS and self._has_room():
                # Its bucket is not read again for it: that may be very many rows.
                self._again.append(parked)
            else:
                self._parking.wait(parked)  # until the next read

    def resume(self, parked: ParkedKey) -> None:
        """Read the key again from the row that failed."""
        self._lines.read_again(parked.bucket, parked.key, parked.first_id)

    def _rejoin_parts(self) -> None:
        """Read again what was passed over for the parts that are back."""
        for part in self._parts.take_back():
            for bucket, passed in part.passed.items():
                self._lines.go_back(part.lane, bucket, passed.floor)

    def _aside(self) -> list[str]:
        return [lane.receiver for lane in self._lines.lanes.values() if lane.aside is not None]

    async def _read_keys(self) -> bool:
        """Read the rows of keys that are due, wherever their buckets' floors are: those above are
        known when they are found there. What does not come into memory is read again with the
        bucket."""
        again, self._again = self._again, []
        ours = {bucket.number: bucket.epoch for bucket in self._ours()}
        keys = [(p.bucket, p.key, p.first_id) for p in again if p.bucket in ours]
        most = self._most_each(AGAIN_KEYS)
        try:
            found = await self._store.rows.read_keys(keys, most)
        except BaseException:
            for parked in again:
                self.resume(parked)
            raise
        rows: dict[str, list[QueuedRow]] = {}
        for row in found:
            if self._lines.buckets[row.bucket].epoch == ours[row.bucket]:
                rows.setdefault(row.key, []).append(row)
        for some in rows.values():
            lane = self._lines.lane(some[0].receiver)
            is_all = not most.filled(some)
            for row in some:
                if lane.aside is not None or not (
                    self._parts.passes_over(row) or self._lines.admit(row, lane)
                ):
                    self._lines.read_again(row.bucket, row.key, row.id)
                    break
            else:
                if not is_all:
                    self._lines.read_again(some[-1].bucket, some[-1].key, some[-1].id + 1)
        return bool(rows)

    async def _read_new(self) -> bool:
        ours = self._ours()
        if not ours:
            return False
        epochs = {bucket.number: bucket.epoch for bucket in ours}
        spans = [bucket.begin_read() for bucket in ours]
        settled = self._horizon.settled_id
        most, keys, receivers = (
            self._most_each(len(ours)),
            self._parking.waiting_keys(),
            self._aside(),
        )
        ceilings: dict[int, int] = {}
        if keys or receivers:
            ceilings = await self._ceilings({span.bucket: span.floor for span in spans})
        rows = await self._store.rows.read(
            spans,
            most,
            ceilings=ceilings,
            known=[row_id for bucket in ours for row_id in bucket.known_above_safe_floor()],
            without_keys=keys,
            without_receivers=receivers,
        )
        still = [b for b in ours if b.is_ours and b.epoch == epochs[b.number]]
        self._take(rows, {bucket.number: bucket for bucket in still})
        filled = most.filled(rows) if keys or receivers else None
        for bucket in still:
            if filled is not None and bucket.number not in filled:
                # All that is left up to the ceiling was passed over, and has other floors.
                bucket.floor = max(bucket.floor, ceilings.get(bucket.number, settled))
            bucket.safe_floor = max(bucket.safe_floor, min(settled, bucket.floor))
        return bool(rows or ceilings)

    async def _ceilings(self, floors: Mapping[int, int]) -> dict[int, int]:
        """How far to read each bucket at once; without those that have few rows left. Behind what
        is set aside there may be millions of rows, and no statement goes through them in time."""
        rows = max(1, self._settings.visited_rows // len(floors))
        return await self._store.rows.ceilings(floors, rows)

    def _take(self, rows: Sequence[QueuedRow], still: Mapping[int, Bucket]) -> None:
        """Admit what was read of the buckets that are `still` held as they were."""
        lanes, admit = self._lines.lanes, self._lines.admit
        is_waiting = self._parking.is_waiting if len(self._parking) else None
        passes_over = self._parts.passes_over if self._parts.away else None
        for row in rows:
            bucket = still.get(row.bucket)
            if bucket is None:
                continue
            bucket.floor = max(bucket.floor, row.id)
            lane = lanes.get(row.receiver) or self._lines.lane(row.receiver)
            if passes_over and passes_over(row):
                continue
            if lane.aside is not None or (is_waiting and is_waiting(row.key)) or admit(row, lane):
                continue
            lane.aside = {each.number: each.surely_read() for each in self._ours()}

    async def _catch_up(self, lane: Lane, floors: dict[int, int]) -> bool:
        """Read one lane that was set aside, from its own floors, until it has caught up."""
        ours = self._ours()
        most = self._most_each(len(ours))
        epochs = {bucket.number: bucket.epoch for bucket in ours}
        for bucket in ours:
            bucket.begin_read()
        settled = self._horizon.settled_id
        asked = {bucket.number: floors.get(bucket.number, 0) for bucket in ours}
        ceilings = await self._ceilings(asked)
        near = {number: row_id for number, row_id in ceilings.items() if row_id < settled}
        rows = await self._store.rows.read_receiver(
            lane.receiver,
            asked,
            most,
            ceilings=dict.fromkeys(asked, settled) | near,
            without_keys=self._parking.waiting_keys(),
        )
        full: set[int] = set()
        reached = dict(asked)
        for row in rows:
            bucket = self._lines.buckets[row.bucket]
            stale = not bucket.is_ours or bucket.epoch != epochs[row.bucket]
            if stale or row.bucket in full:
                continue
            if (
                self._parts.passes_over(row)
                or self._parking.is_waiting(row.key)
                or self._lines.admit(row, lane)
            ):
                reached[row.bucket] = row.id
            else:
                full.add(row.bucket)
        filled = most.filled(rows)
        for bucket in ours:
            number = bucket.number
            if bucket.epoch == epochs[number] and number not in full | filled:
                reached[number] = near.get(number, reached[number])
        # A floor that was lowered meanwhile stands: something below it has to be read again.
        lowered = [number for number in asked if floors.get(number, 0) != asked[number]]
        floors.update({number: reached[number] for number in asked if number not in lowered})
        if not full and not lowered and not filled and not near:
            self._rejoin(lane, settled)
        return bool(rows or near)

    def _rejoin(self, lane: Lane, caught_up_to: int) -> None:
        for bucket in self._ours():
            bucket.go_back(caught_up_to)
        lane.aside = None

    @property
    def wants_look(self) -> bool:
        """Rows may still become visible below a floor, or a lane has to catch up."""
        return any(bucket.safe_floor < bucket.floor for bucket in self._ours()) or any(
            lane.aside is not None for lane in self._lines.lanes.values()
        )

    @property
    def has_read_all(self) -> bool:
        """Every row that was visible at the last read is in memory, parked or deleted."""
        ours = self._ours()
        return bool(ours) and any(b.floor for b in ours) and not self.wants_look

    async def raise_horizon(self) -> None:
        """Find out up to which id no row can still appear."""
        server, newest_id = await self._store.horizon.newest_id()
        if server != self._server or newest_id < self._horizon.newest_id:
            self._begin_again()
            self._server = server
        asked, writers = await self._store.horizon.writers()
        if asked == server:
            self._horizon.look(newest_id, writers)

    def _begin_again(self) -> None:
        """The server has crashed, or another one has taken its place: ids that were drawn but not
        committed may be drawn again, below what was known to be settled."""
        self._horizon = Horizon()
        for bucket in self._ours():
            bucket.go_back(0)
        for lane in self._lines.lanes.values():
            if lane.aside is not None:
                lane.aside.update(dict.fromkeys(lane.aside, 0))
