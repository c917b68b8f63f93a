"""The SQL of showing and mending a queue by hand, safe while its daemons run.

Each function is one transaction. Locks are taken in the order in which the daemons take them: the
row, then its key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from servicedesk.bucket import bucket_of
from servicedesk.queue.statements import render
from servicedesk.queue.tables import QueueTables

Found = TypeVar("Found")

# Counting stops here, a bucket: a queue of a hundred million rows is told as "10000+".
COUNTED_ROWS = 10_000
SKIPPED = "skipped by operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStatus:
    """`lease_seconds` is what is left, None without an owner; `oldest_seconds` None when empty."""

    bucket: int
    owner: str | None
    epoch: int
    lease_seconds: float | None
    pending: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    workers: int
    parked: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedKey:
    """`wait_seconds` is 0 or less when the key is due."""

    bucket: int
    key: str
    first_id: int
    attempts: int
    wait_seconds: float
    first_failed_at: datetime
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadRow:
    id: int
    key: str
    sequence: int
    event_id: UUID
    event_type: str
    attempts: int
    failed_at: datetime
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRow:
    """`event_id` is None when the row that the key waited for was gone already."""

    key: str
    first_id: int
    event_id: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedrivenRow:
    """`id` is the row's new place in the queue."""

    id: int
    key: str
    event_id: UUID
    event_type: str


class MendingStore:
    """One connection to a queue's tables. As a context manager it closes the connection."""

    def __init__(self, url: str, tables: QueueTables) -> None:
        """Raises psycopg.Error."""
        self._tables = tables
        self._connection = psycopg.connect(
            url, autocommit=True, application_name=f"mend {tables.name}", connect_timeout=5
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # No lock. All 64 buckets, and of each the first entries of the primary key (bucket, id).
    BUCKETS = """
    SELECT lease.bucket, lease.owner, lease.epoch, waiting.pending,
           extract(epoch FROM lease.lease_until - now())::float8 AS lease_seconds,
           extract(epoch FROM now() - oldest.created_at)::float8 AS oldest_seconds
    FROM {queue}_bucket AS lease
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS pending FROM (
            SELECT FROM {queue} WHERE bucket = lease.bucket ORDER BY id LIMIT %(most)s
        ) AS counted
    ) AS waiting
    LEFT JOIN LATERAL (
        SELECT created_at FROM {queue} WHERE bucket = lease.bucket ORDER BY id LIMIT 1
    ) AS oldest ON true
    ORDER BY lease.bucket
    """

    def buckets(self) -> list[BucketStatus]:
        return self._fetch(BucketStatus, self.BUCKETS, {"most": COUNTED_ROWS + 1})

    # No lock. Whole small tables; an index of the dead, which are few where all is well.
    TOTALS = """
    SELECT (SELECT count(*) FROM {queue}_worker WHERE seen_until > now())::int AS workers,
           (SELECT count(*) FROM {queue}_parked)::int AS parked,
           (SELECT count(*) FROM {queue}_dead)::int AS dead
    """

    def totals(self) -> Totals:
        [totals] = self._fetch(Totals, self.TOTALS, {})
        return totals

    # No lock. The parked keys are few; those that wait longest come first.
    PARKED = """
    SELECT bucket, key, first_id, attempts, first_failed_at, error,
           extract(epoch FROM next_at - now())::float8 AS wait_seconds
    FROM {queue}_parked ORDER BY first_failed_at, bucket, key LIMIT %(limit)s
    """

    def parked(self, limit: int) -> list[ParkedKey]:
        return self._fetch(ParkedKey, self.PARKED, {"limit": limit})

    # No lock. The primary key of {queue}_dead, backwards: the newest first.
    DEAD = """
    SELECT id, {key} AS key, sequence, event_id, event_type, attempts, failed_at, error
    FROM {queue}_dead AS {queue} ORDER BY id DESC LIMIT %(limit)s
    """

    def dead(self, limit: int) -> list[DeadRow]:
        return self._fetch(DeadRow, self.DEAD, {"limit": limit})

    # A row lock on one parked key, by the primary key (bucket, key).
    RETRY = """
    UPDATE {queue}_parked SET next_at = now() WHERE bucket = %(bucket)s AND key = %(key)s
    RETURNING key
    """

    # Row locks on every parked key.
    RETRY_ALL = "UPDATE {queue}_parked SET next_at = now() RETURNING key"

    def retry(self, key: str | None) -> list[str]:
        """Make one parked key, or with None all of them, due now; returns their keys. The owner of
        the bucket sees it within about a second."""
        if key is None:
            rows = self._connection.execute(self._text(self.RETRY_ALL)).fetchall()
        else:
            parameters = {"bucket": bucket_of(key), "key": key}
            rows = self._connection.execute(self._text(self.RETRY), parameters).fetchall()
        return [str(found) for (found,) in rows]

    # Row locks on the failing row, then on its parked key; both by primary keys. One statement, so
    # the row is in exactly one of the two tables at any time.
    SKIP = """
    WITH failing AS (
        SELECT bucket, key, first_id, attempts, first_failed_at, error FROM {queue}_parked
        WHERE bucket = %(bucket)s AND key = %(key)s
    ), gone AS (
        DELETE FROM {queue} USING failing
        WHERE {queue}.bucket = failing.bucket AND {queue}.id = failing.first_id
        RETURNING {queue}.*, failing.attempts, failing.first_failed_at, failing.error
    ), kept AS (
        INSERT INTO {queue}_dead (bucket, id, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at, error, attempts, first_failed_at)
        SELECT bucket, id, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at, %(reason)s || '; last error: ' || error,
            attempts, first_failed_at
        FROM gone
        RETURNING event_id
    )
    DELETE FROM {queue}_parked AS parked USING failing LEFT JOIN kept ON true
    WHERE parked.bucket = failing.bucket AND parked.key = failing.key
      AND parked.first_id = failing.first_id
    RETURNING parked.key, parked.first_id, kept.event_id
    """

    def skip(self, key: str) -> SkippedRow | None:
        """Give the failing row of a parked key up and free the key; None when it is not parked."""
        parameters = {"bucket": bucket_of(key), "key": key, "reason": SKIPPED}
        found = self._fetch(SkippedRow, self.SKIP, parameters)
        return found[0] if found else None

    # No lock. The index {queue}_dead_event, or the primary key for all of them.
    FIND_DEAD = """
    SELECT id, {key} AS key, sequence, event_id, event_type, attempts, failed_at, error
    FROM {queue}_dead AS {queue}
    WHERE event_id = %(event_id)s
    ORDER BY id
    """
    ALL_DEAD = """
    SELECT id, {key} AS key, sequence, event_id, event_type, attempts, failed_at, error
    FROM {queue}_dead AS {queue}
    WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
    """

    def find_dead(self, event_id: UUID) -> list[DeadRow]:
        """More than one only where several receivers gave the event up."""
        return self._fetch(DeadRow, self.FIND_DEAD, {"event_id": event_id})

    def dead_after(self, row_id: int, limit: int) -> list[DeadRow]:
        """The next dead rows in order of id."""
        return self._fetch(DeadRow, self.ALL_DEAD, {"after": row_id, "limit": limit})

    # Row locks on dead rows, by primary key; whoever comes second finds them gone. created_at
    # stays: it is when the event occurred. New ids are given in the order of the old ones.
    REDRIVE = """
    WITH back AS (
        DELETE FROM {queue}_dead WHERE id = ANY(%(ids)s) RETURNING *
    ), queued AS (
        INSERT INTO {queue} (bucket, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at)
        SELECT bucket, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at
        FROM back ORDER BY back.id
        RETURNING *
    )
    SELECT id, {key} AS key, event_id, event_type FROM queued AS {queue} ORDER BY id
    """

    def redrive(self, rows: Sequence[DeadRow]) -> list[RedrivenRow]:
        """Put dead rows back at the end of the queue, with no attempts against them."""
        return self._fetch(RedrivenRow, self.REDRIVE, {"ids": [row.id for row in rows]})

    def _text(self, template: str) -> bytes:
        return render(template, self._tables).encode()

    def _fetch(
        self, kind: type[Found], template: str, parameters: Mapping[str, object]
    ) -> list[Found]:
        with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            cursor.execute(self._text(template), parameters)
            return cursor.fetchall()
