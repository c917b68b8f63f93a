"""Keeps this worker's fair share of the buckets, and knows when it may no longer be sure of it.

A worker that may have lost its leases stops sending first and asks afterwards: `may_send` turns
False by the worker's own monotonic clock, counted from before the last renewal was sent.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from servicedesk.bucket import BUCKETS
from servicedesk.queue.lease_store import Lease, LeaseStore


class Holder(Protocol):
    """Who does the work of the buckets."""

    def gain(self, lease: Lease) -> None: ...

    def lose(self, bucket: int) -> None: ...

    def leave(self, bucket: int) -> None:
        """Send nothing more from the bucket; it is released when `is_settled`."""

    def is_settled(self, bucket: int) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one look at the leases brought."""

    gained: int
    lost: int
    released: int


class Leases:
    """`send_seconds` is the longest that one send can take: nothing is begun later than that before
    a lease may end. `now` must not be the clock of an event loop, which stands still within a turn,
    however long the process was stopped in it."""

    def __init__(
        self,
        *,
        store: LeaseStore,
        holder: Holder,
        lease_seconds: float,
        send_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._send_seconds = send_seconds
        self._now = now
        self._held: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._sure_until = float("-inf")
        # Lost, and not told of yet.
        self._lost = 0

    @property
    def may_send(self) -> bool:
        return self._now() < self.send_until

    @property
    def send_until(self) -> float:
        """The time of the monotonic clock from which on `may_send` is False, unless renewed."""
        return self._sure_until - self._send_seconds

    @property
    def count(self) -> int:
        return len(self._held)

    async def keep(self) -> Change:
        """Renew, give up the surplus, take what is free of our share. Errors of psycopg rise; what
        was lost before is told of by the next look that ends well."""
        asked_at = self._now()
        still_ours = {lease.bucket: lease for lease in await self._store.renew(self._lease_seconds)}
        lost = [b for b, epoch in self._held.items() if not _same(still_ours.get(b), epoch)]
        for bucket in lost:
            self._forget(bucket)
            self._holder.lose(bucket)
        self._lost += len(lost)
        # A claim whose answer was lost with its connection is ours all the same.
        unknown = [lease for bucket, lease in still_ours.items() if bucket not in self._held]
        self._take(unknown)
        self._sure_until = asked_at + self._lease_seconds
        share = -(-BUCKETS // max(1, await self._store.live_workers()))
        self._leave_surplus(len(self._held) - len(self._leaving) - share)
        released = await self.release_settled()
        gained = await self._claim(share - len(self._held))
        told, self._lost = self._lost, 0
        return Change(gained=gained, lost=told, released=released)

    def _forget(self, bucket: int) -> None:
        del self._held[bucket]
        self._leaving.discard(bucket)

    def _leave_surplus(self, surplus: int) -> None:
        staying = [bucket for bucket in self._held if bucket not in self._leaving]
        for bucket in staying[: max(0, surplus)]:
            self._leaving.add(bucket)
            self._holder.leave(bucket)

    async def _claim(self, most: int) -> int:
        if most <= 0:
            return 0
        leases = await self._store.claim(self._lease_seconds, most)
        self._take(leases)
        return len(leases)

    def _take(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._held[lease.bucket] = lease.epoch
            self._holder.gain(lease)

    @property
    def is_leaving(self) -> bool:
        return bool(self._leaving)

    async def release_settled(self) -> int:
        """Release the buckets that are to be left and have nothing under way."""
        settled = [bucket for bucket in self._leaving if self._holder.is_settled(bucket)]
        if settled:
            await self._store.release(settled)
            for bucket in settled:
                self._forget(bucket)
                self._holder.lose(bucket)
        return len(settled)

    async def release_all(self) -> None:
        """At the end: release what is settled, leave the rest to run out, sign off."""
        self._leave_surplus(len(self._held))
        await self.release_settled()
        await self._store.leave()


def _same(lease: Lease | None, epoch: int) -> bool:
    return lease is not None and lease.epoch == epoch
