"""The SQL of showing a queue by hand: its buckets, what is parked and dead, and what was mended.

Nothing here takes a lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from servicedesk.mending.selection import Selection, selected
from servicedesk.queue.statements import render
from servicedesk.queue.tables import QueueTables

Connection = psycopg.Connection[tuple[object, ...]]
Found = TypeVar("Found")

# Counting stops here, a bucket: a queue of a hundred million rows is told as "10000+".
COUNTED_ROWS = 10_000

# What `Selection.parameters` narrows. A key's row is found by the primary key (bucket, id).
OF_PARKED = """
(%(event_ids)s::uuid[] IS NULL OR EXISTS (
    SELECT FROM {queue} WHERE bucket = parked.bucket AND id = parked.first_id
      AND event_id = ANY(%(event_ids)s::uuid[])))
AND (%(keys)s::text[] IS NULL OR parked.key = ANY(%(keys)s::text[]))
AND (%(error)s::text IS NULL OR split_part(parked.error, ': ', 1) = %(error)s::text)
AND (%(since)s::timestamptz IS NULL OR parked.first_failed_at >= %(since)s::timestamptz)
AND (%(until)s::timestamptz IS NULL OR parked.first_failed_at < %(until)s::timestamptz)
"""
OF_DEAD = """
(%(event_ids)s::uuid[] IS NULL OR event_id = ANY(%(event_ids)s::uuid[]))
AND (%(keys)s::text[] IS NULL OR {key} = ANY(%(keys)s::text[]))
AND (%(error)s::text IS NULL OR split_part(error, ': ', 1) = %(error)s::text)
AND (%(since)s::timestamptz IS NULL OR failed_at >= %(since)s::timestamptz)
AND (%(until)s::timestamptz IS NULL OR failed_at < %(until)s::timestamptz)
"""
OF_HISTORY = """
(%(event_ids)s::uuid[] IS NULL OR event_id = ANY(%(event_ids)s::uuid[]))
AND (%(keys)s::text[] IS NULL OR key = ANY(%(keys)s::text[]))
AND (%(error)s::text IS NULL OR split_part(error, ': ', 1) = %(error)s::text)
AND (%(since)s::timestamptz IS NULL OR at >= %(since)s::timestamptz)
AND (%(until)s::timestamptz IS NULL OR at < %(until)s::timestamptz)
"""


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
    """`wait_seconds` is 0 or less when the key is due; `event_id` None when its row is gone."""

    bucket: int
    key: str
    first_id: int
    event_id: UUID | None
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
class Mended:
    """One row of the history. `place` is the dead letter that a row was redriven from."""

    at: datetime
    act: str
    operator: str
    selection: str
    event_id: UUID | None
    key: str
    error: str
    outcome: str
    place: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadCount:
    """How many dead rows are selected, and the highest of their ids, 0 without any."""

    rows: int
    ceiling: int


class MendingStore:
    """One set of tables. Each function is one statement; raises psycopg.Error."""

    def __init__(self, connection: Connection, tables: QueueTables) -> None:
        """The connection is in autocommit."""
        self._connection = connection
        self._tables = tables

    # All 64 buckets, and of each the first entries of the primary key (bucket, id).
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

    # Whole small tables; an index of the dead, which are few where all is well.
    TOTALS = """
    SELECT (SELECT count(*) FROM {queue}_worker WHERE seen_until > now())::int AS workers,
           (SELECT count(*) FROM {queue}_parked)::int AS parked,
           (SELECT count(*) FROM {queue}_dead)::int AS dead
    """

    def totals(self) -> Totals:
        [totals] = self._fetch(Totals, self.TOTALS, {})
        return totals

    # The parked keys are few; those that wait longest come first.
    PARKED = selected(
        """
    SELECT bucket, key, first_id, attempts, first_failed_at, error,
           extract(epoch FROM next_at - now())::float8 AS wait_seconds,
           (SELECT event_id FROM {queue}
            WHERE bucket = parked.bucket AND id = parked.first_id) AS event_id
    FROM {queue}_parked AS parked
    WHERE {selected}
    ORDER BY first_failed_at, bucket, key LIMIT %(limit)s
    """,
        OF_PARKED,
    )

    def parked(self, selection: Selection, limit: int) -> list[ParkedKey]:
        return self._fetch(ParkedKey, self.PARKED, selection.parameters() | {"limit": limit})

    # The parked keys are few.
    COUNT_PARKED = selected(
        "SELECT count(*) FROM {queue}_parked AS parked WHERE {selected}", OF_PARKED
    )

    def count_parked(self, selection: Selection) -> int:
        text = self._text(self.COUNT_PARKED)
        row = self._connection.execute(text, selection.parameters()).fetchone()
        return int(str(row[0])) if row else 0

    # The primary key (bucket, key), from where the last batch ended.
    PARKED_AFTER = selected(
        """
    SELECT bucket, key, first_id, attempts, first_failed_at, error,
           extract(epoch FROM next_at - now())::float8 AS wait_seconds,
           (SELECT event_id FROM {queue}
            WHERE bucket = parked.bucket AND id = parked.first_id) AS event_id
    FROM {queue}_parked AS parked
    WHERE (bucket, key) > (%(after_bucket)s, %(after_key)s) AND {selected}
    ORDER BY bucket, key LIMIT %(limit)s
    """,
        OF_PARKED,
    )

    def parked_after(
        self, selection: Selection, after: tuple[int, str], limit: int
    ) -> list[ParkedKey]:
        """The next selected keys in order of bucket and key."""
        place = {"after_bucket": after[0], "after_key": after[1], "limit": limit}
        return self._fetch(ParkedKey, self.PARKED_AFTER, selection.parameters() | place)

    # The primary key of {queue}_dead, backwards: the newest first. An event's rows are found by
    # {queue}_dead_event, a span's by {queue}_dead_failed.
    DEAD = selected(
        """
    SELECT id, {key} AS key, sequence, event_id, event_type, attempts, failed_at, error
    FROM {queue}_dead AS {queue} WHERE {selected}
    ORDER BY id DESC LIMIT %(limit)s
    """,
        OF_DEAD,
    )

    def dead(self, selection: Selection, limit: int) -> list[DeadRow]:
        return self._fetch(DeadRow, self.DEAD, selection.parameters() | {"limit": limit})

    # The dead rows, all of them unless events or a span are named: few where all is well.
    COUNT_DEAD = selected(
        """
    SELECT count(*) AS rows, coalesce(max(id), 0) AS ceiling
    FROM {queue}_dead AS {queue} WHERE {selected}
    """,
        OF_DEAD,
    )

    def count_dead(self, selection: Selection) -> DeadCount:
        [count] = self._fetch(DeadCount, self.COUNT_DEAD, selection.parameters())
        return count

    # The primary key, from where the last batch ended; events by {queue}_dead_event. The ceiling
    # keeps rows out that were redriven and died again meanwhile: their ids are new.
    DEAD_AFTER = selected(
        """
    SELECT id, {key} AS key, sequence, event_id, event_type, attempts, failed_at, error
    FROM {queue}_dead AS {queue}
    WHERE id > %(after)s AND id <= %(ceiling)s AND {selected}
    ORDER BY id LIMIT %(limit)s
    """,
        OF_DEAD,
    )

    def dead_after(
        self, selection: Selection, after: int, ceiling: int, limit: int
    ) -> list[DeadRow]:
        """The next selected dead rows in order of id."""
        place = {"after": after, "ceiling": ceiling, "limit": limit}
        return self._fetch(DeadRow, self.DEAD_AFTER, selection.parameters() | place)

    # The primary key (queue, id), backwards; an event's rows are found by mending_history_event.
    HISTORY = selected(
        """
    SELECT at, act, operator, selection, event_id, key, error, outcome,
           topic || '/' || partition || '/' || "offset" AS place
    FROM mending_history WHERE queue = '{queue}' AND {selected}
    ORDER BY id DESC LIMIT %(limit)s
    """,
        OF_HISTORY,
    )

    def history(self, selection: Selection, limit: int) -> list[Mended]:
        return self._fetch(Mended, self.HISTORY, selection.parameters() | {"limit": limit})

    def _text(self, template: str) -> bytes:
        return render(template, self._tables).encode()

    def _fetch(
        self, kind: type[Found], template: str, parameters: Mapping[str, object]
    ) -> list[Found]:
        with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            cursor.execute(self._text(template), parameters)
            return cursor.fetchall()
