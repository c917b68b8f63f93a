"""The SQL of leases: which worker drains which bucket, by the database's clock.

A worker only ever locks its own rows, or free ones with SKIP LOCKED, so workers never wait for one
another. The epoch of a bucket grows at every change of hands.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from servicedesk.bucket import BUCKETS
from servicedesk.queue.statements import Statements


class BucketCountError(Exception):
    """The database was set up with another number of buckets than this code hashes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A bucket that is ours, and the epoch that proves it."""

    bucket: int
    epoch: int


class LeaseStore:
    """`owner` is the worker's name, unique among processes and over restarts."""

    def __init__(self, statements: Statements, owner: str) -> None:
        self._statements = statements
        self.owner = owner

    # No lock. Reads the whole of a table of 64 rows.
    COUNT_BUCKETS = "SELECT count(*) FROM {queue}_bucket"

    async def require_buckets(self) -> None:
        """Raises BucketCountError."""
        found = await self._statements.fetch_integer(self.COUNT_BUCKETS)
        if found != BUCKETS:
            raise BucketCountError(
                f"the database has {found} buckets, this code hashes to {BUCKETS}; "
                "run the version that set the database up"
            )

    # Row locks on this worker's own rows. Workers that died long ago are swept out on the way.
    RENEW = """
    WITH me AS (
        INSERT INTO {queue}_worker (owner, seen_until)
        VALUES (%(owner)s, now() + make_interval(secs => %(lease)s))
        ON CONFLICT (owner) DO UPDATE SET seen_until = EXCLUDED.seen_until
    ), gone AS (
        DELETE FROM {queue}_worker WHERE owner IN (
            SELECT owner FROM {queue}_worker
            WHERE seen_until < now() - interval '1 minute' AND owner <> %(owner)s
            FOR UPDATE SKIP LOCKED)
    )
    UPDATE {queue}_bucket SET lease_until = now() + make_interval(secs => %(lease)s)
    WHERE owner = %(owner)s
    RETURNING bucket, epoch
    """

    async def renew(self, lease_seconds: float) -> list[Lease]:
        """Say that this worker is alive, extend its leases, return those that are still its own."""
        parameters = {"owner": self.owner, "lease": lease_seconds}
        return await self._statements.fetch(Lease, self.RENEW, parameters)

    # No lock. Reads a table with one row a worker.
    COUNT_WORKERS = "SELECT count(*) FROM {queue}_worker WHERE seen_until > now()"

    async def live_workers(self) -> int:
        return await self._statements.fetch_integer(self.COUNT_WORKERS)

    # Row locks on free buckets, skipping those another worker is just taking.
    CLAIM = """
    UPDATE {queue}_bucket AS taken
    SET owner = %(owner)s, epoch = taken.epoch + 1,
        lease_until = now() + make_interval(secs => %(lease)s)
    FROM (
        SELECT bucket FROM {queue}_bucket
        WHERE owner IS NULL OR lease_until < now()
        ORDER BY bucket LIMIT %(most)s
        FOR UPDATE SKIP LOCKED
    ) AS free
    WHERE taken.bucket = free.bucket
    RETURNING taken.bucket, taken.epoch
    """

    async def claim(self, lease_seconds: float, most: int) -> list[Lease]:
        """Take up to `most` buckets that nobody holds or whose lease has run out."""
        parameters = {"owner": self.owner, "lease": lease_seconds, "most": most}
        return await self._statements.fetch(Lease, self.CLAIM, parameters)

    # Row locks on this worker's own buckets.
    RELEASE = """
    UPDATE {queue}_bucket SET owner = NULL, lease_until = NULL
    WHERE owner = %(owner)s AND bucket = ANY(%(buckets)s)
    """

    async def release(self, buckets: Sequence[int]) -> None:
        parameters = {"owner": self.owner, "buckets": list(buckets)}
        await self._statements.execute(self.RELEASE, parameters)

    # A row lock on this worker's own row.
    LEAVE = "DELETE FROM {queue}_worker WHERE owner = %(owner)s"

    async def leave(self) -> None:
        """Off the list of live workers, so that the others' shares grow at once."""
        await self._statements.execute(self.LEAVE, {"owner": self.owner})
