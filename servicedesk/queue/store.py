"""The SQL of what becomes of rows: completing, parking, burying. Reading: row_store.py.

Every function is one transaction. Times are the database's clock, so workers need not agree on
theirs. Statements are templates over the names in `tables.py` (see statements.py).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from servicedesk import binary
from servicedesk.queue.horizon_store import HorizonStore
from servicedesk.queue.parking import ParkedKey
from servicedesk.queue.row import Failure, Parked, QueuedRow
from servicedesk.queue.row_store import RowStore
from servicedesk.queue.statements import Statements

# Parked._make is a function in Python, and would be called for every row.
make_parked: Callable[[Sequence[Any]], Parked] = partial(tuple.__new__, Parked)


class QueueStore:
    """The rows of one set of tables."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self.tables = statements.tables
        self.rows = RowStore(statements)
        self.horizon = HorizonStore(statements)

    # Row locks on rows that only this worker sends; the primary key, one probe a row, and then the
    # row by its place, which is sure within a statement. A plain join would be planned as a scan
    # of the whole table when the plan is made while the table is small, as it is most of the time.
    COMPLETE = """
    DELETE FROM {queue} USING unnest(%(buckets)s::int2[], %(ids)s::int8[]) AS sent(bucket, id)
    CROSS JOIN LATERAL (
        SELECT ctid AS place FROM {queue} AS row
        WHERE row.bucket = sent.bucket AND row.id = sent.id OFFSET 0
    ) AS found
    WHERE {queue}.ctid = found.place
    """

    # The same, and a record of each for `event delivered to receiver, once`.
    COMPLETE_AND_KEEP = """
    WITH gone AS (
        DELETE FROM {queue} USING unnest(%(buckets)s::int2[], %(ids)s::int8[]) AS sent(bucket, id)
        CROSS JOIN LATERAL (
            SELECT ctid AS place FROM {queue} AS row
            WHERE row.bucket = sent.bucket AND row.id = sent.id OFFSET 0
        ) AS found
        WHERE {queue}.ctid = found.place
        RETURNING {queue}.event_id, {receiver} AS receiver, {queue}.aggregate_id, {queue}.sequence
    )
    INSERT INTO {queue}_done (event_id, receiver, aggregate_id, sequence)
    SELECT event_id, receiver, aggregate_id, sequence FROM gone
    ON CONFLICT (event_id, receiver) DO NOTHING
    """

    async def complete(self, rows: Sequence[QueuedRow]) -> None:
        """Delete acknowledged rows. Repeating it, or rows that are gone already, is fine."""
        template = self.COMPLETE_AND_KEEP if self.tables.keeps_done else self.COMPLETE
        values = {
            "buckets": binary.int2s([row.bucket for row in rows]),
            "ids": binary.int8s([row.id for row in rows]),
        }
        text = self._statements.text(template).decode()
        await self._statements.completing.execute(text, values)

    async def close(self) -> None:
        """Give back the connections kept for reading and completing."""
        await self._statements.close()

    # Row locks on the parked rows, in the order of their primary key; the buckets are read, so
    # a worker that has lost a bucket parks nothing of it. first_failed_at stays that of the row's
    # first failure.
    PARK = """
    INSERT INTO {queue}_parked AS parked (bucket, key, first_id, attempts, next_at, error)
    SELECT held.bucket, failed.key, failed.id, failed.attempts,
           now() + make_interval(secs => failed.wait), failed.error
    FROM unnest(%(buckets)s::int2[], %(epochs)s::int8[], %(keys)s::text[], %(ids)s::int8[],
                %(attempts)s::int4[], %(waits)s::float8[], %(errors)s::text[])
         AS failed(bucket, epoch, key, id, attempts, wait, error)
    JOIN {queue}_bucket AS held
      ON held.bucket = failed.bucket AND held.owner = %(owner)s AND held.epoch = failed.epoch
    ORDER BY held.bucket, failed.key
    ON CONFLICT (bucket, key) DO UPDATE
    SET first_id = EXCLUDED.first_id, attempts = EXCLUDED.attempts, next_at = EXCLUDED.next_at,
        error = EXCLUDED.error,
        first_failed_at = CASE WHEN parked.first_id = EXCLUDED.first_id
                               THEN parked.first_failed_at ELSE now() END
    RETURNING key, first_failed_at
    """

    async def park(
        self, held: Sequence[tuple[ParkedKey, int | None]], *, owner: str, now: float
    ) -> dict[str, datetime]:
        """Park keys, each once, under the epoch of its bucket; `now` is the clock of `due_at`.

        Returns by key when its row first failed; not of keys whose bucket is lost."""
        keys = [parked for parked, _ in held]
        parameters = {
            "buckets": [parked.bucket for parked in keys],
            "epochs": [epoch for _, epoch in held],
            "keys": [parked.key for parked in keys],
            "ids": [parked.first_id for parked in keys],
            "attempts": [parked.attempts for parked in keys],
            "waits": [parked.due_at - now for parked in keys],
            "errors": [parked.error for parked in keys],
            "owner": owner,
        }
        rows = await self._statements.fetch_tuples(self.PARK, parameters)
        return {str(key): at for key, at in rows if isinstance(at, datetime)}

    # Row locks on parked rows; the primary key (bucket, key). A key that waits for a later row was
    # parked since, maybe by another worker, and stays; the row that it waited for may be earlier
    # than the one that arrived, when that was deleted by hand.
    UNPARK = """
    DELETE FROM {queue}_parked
    USING unnest(%(buckets)s::int2[], %(keys)s::text[], %(ids)s::int8[]) AS free(bucket, key, id)
    WHERE {queue}_parked.bucket = free.bucket AND {queue}_parked.key = free.key
      AND {queue}_parked.first_id <= free.id
    """

    async def unpark(self, keys: Sequence[tuple[int, str, int]]) -> None:
        """Free each (bucket, key, id) that does not wait for a row after this id; repeating it is
        fine."""
        parameters = {
            "buckets": [bucket for bucket, _, _ in keys],
            "keys": [key for _, key, _ in keys],
            "ids": [row_id for _, _, row_id in keys],
        }
        await self._statements.execute(self.UNPARK, parameters)

    # No lock. The primary keys of both tables; a subquery, because a join of many parked keys would
    # be planned as a scan of the whole queue.
    PARKED = """
    SELECT parked.bucket, parked.key, parked.first_id, parked.attempts,
           extract(epoch FROM parked.next_at - now())::float8 AS wait_seconds,
           parked.first_failed_at, parked.error,
           (SELECT created_at FROM {queue}
            WHERE bucket = parked.bucket AND id = parked.first_id) AS row_created_at
    FROM {queue}_parked AS parked
    WHERE parked.bucket = ANY(%(buckets)s::int2[])
    """

    async def parked(self, buckets: Sequence[int]) -> list[Parked]:
        text = self._statements.text(self.PARKED).decode()
        values = {"buckets": binary.int2s(buckets)}
        return await self._statements.reading.fetch(make_parked, text, values)

    # Row locks on the row and on its parked key; primary keys. One statement, so the row is in
    # exactly one of the two tables at any time. A key that waits for a later row stays, as above.
    BURY = """
    WITH gone AS (
        DELETE FROM {queue} WHERE bucket = %(bucket)s AND id = %(id)s RETURNING {queue}.*
    ), freed AS (
        DELETE FROM {queue}_parked
        WHERE bucket = %(bucket)s AND key = %(key)s AND first_id <= %(id)s
    )
    INSERT INTO {queue}_dead (bucket, id, {receiver_column} aggregate_id, sequence, event_id,
        event_type, headers, payload, created_at, error, attempts, first_failed_at)
    SELECT bucket, id, {receiver_column} aggregate_id, sequence, event_id,
        event_type, headers, payload, created_at, %(error)s, %(attempts)s, %(first_failed_at)s
    FROM gone
    ON CONFLICT (id) DO NOTHING
    """

    async def bury(self, row: QueuedRow, failure: Failure) -> None:
        """Move a row to the dead ones and free its key from it. Repeating it is fine."""
        parameters = {
            "bucket": row.bucket,
            "id": row.id,
            "key": row.key,
            "error": failure.error,
            "attempts": failure.attempts,
            "first_failed_at": failure.first_failed_at,
        }
        await self._statements.execute(self.BURY, parameters)

    # No lock. The primary key from the floor upwards, at most `most` entries a bucket.
    COUNT_UNREAD = """
    SELECT coalesce(sum(unread.rows), 0)
    FROM unnest(%(buckets)s::int2[], %(floors)s::int8[]) AS start(bucket, floor)
    CROSS JOIN LATERAL (
        SELECT count(*) AS rows FROM (
            SELECT FROM {queue} WHERE bucket = start.bucket AND id > start.floor
            ORDER BY id LIMIT %(most)s
        ) AS counted
    ) AS unread
    """

    async def count_unread(self, floors: dict[int, int], most: int) -> int:
        """How many rows lie above the floors, counting at most `most` a bucket."""
        parameters = {"buckets": list(floors), "floors": list(floors.values()), "most": most}
        return await self._statements.fetch_integer(self.COUNT_UNREAD, parameters)
