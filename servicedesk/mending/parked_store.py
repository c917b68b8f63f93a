"""The SQL of mending parked keys: trying one now, and giving up the row it waits for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from servicedesk.mending.act_store import ActStore
from servicedesk.mending.store import ParkedKey

Done = TypeVar("Done")

SKIPPED = "skipped by operator"
# A batch meets a daemon that takes the same rows in another order: one of them goes first.
DEADLOCK_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """How many keys went on, and of how many the row was gone already."""

    keys: int
    gone: int


class ParkedStore(ActStore):
    """The acts on parked keys. A key that waits for another row by now is left alone."""

    # Row locks on the parked keys, by the primary key (bucket, key); their rows are read by theirs.
    RETRY = """
    WITH due AS (
        UPDATE {queue}_parked AS parked SET next_at = now()
        FROM unnest(%(buckets)s::int2[], %(keys)s::text[], %(first_ids)s::int8[])
             AS chosen (bucket, key, first_id)
        WHERE parked.bucket = chosen.bucket AND parked.key = chosen.key
          AND parked.first_id = chosen.first_id
        RETURNING parked.bucket, parked.key, parked.first_id, parked.error, parked.first_failed_at
    ), noted AS (
        INSERT INTO mending_history
            (queue, act, operator, selection, event_id, key, error, first_failed_at, outcome)
        SELECT '{queue}', 'retry', %(operator)s, %(selection)s,
               (SELECT event_id FROM {queue} WHERE bucket = due.bucket AND id = due.first_id),
               key, error, first_failed_at, 'due now'
        FROM due
        RETURNING 1
    )
    SELECT count(*) FROM noted
    """

    def retry(self, keys: Sequence[ParkedKey]) -> int:
        """Make parked keys due now; how many still waited for the same row. The owner of a bucket
        sees it within about a second."""
        return self._patiently(lambda: self._integer(self.RETRY, _chosen(keys)))

    # Row locks on the failing rows, then on their parked keys; both by primary keys. One statement,
    # so a row is in exactly one of the two tables at any time.
    SKIP = """
    WITH chosen AS (
        SELECT parked.* FROM {queue}_parked AS parked
        JOIN unnest(%(buckets)s::int2[], %(keys)s::text[], %(first_ids)s::int8[])
             AS named (bucket, key, first_id)
          ON parked.bucket = named.bucket AND parked.key = named.key
         AND parked.first_id = named.first_id
    ), gone AS (
        DELETE FROM {queue} USING chosen
        WHERE {queue}.bucket = chosen.bucket AND {queue}.id = chosen.first_id
        RETURNING {queue}.*, chosen.attempts, chosen.first_failed_at, chosen.error
    ), kept AS (
        INSERT INTO {queue}_dead (bucket, id, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at, error, attempts, first_failed_at)
        SELECT bucket, id, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at, %(reason)s || '; last error: ' || error,
            attempts, first_failed_at
        FROM gone
        RETURNING bucket, id, event_id
    ), freed AS (
        DELETE FROM {queue}_parked AS parked
        USING chosen LEFT JOIN kept ON kept.bucket = chosen.bucket AND kept.id = chosen.first_id
        WHERE parked.bucket = chosen.bucket AND parked.key = chosen.key
          AND parked.first_id = chosen.first_id
        RETURNING parked.key, parked.error, parked.first_failed_at, kept.event_id
    ), noted AS (
        INSERT INTO mending_history
            (queue, act, operator, selection, event_id, key, error, first_failed_at, outcome)
        SELECT '{queue}', 'skip', %(operator)s, %(selection)s, event_id, key, error,
               first_failed_at,
               CASE WHEN event_id IS NULL THEN 'key freed, row gone' ELSE 'moved to dead' END
        FROM freed
        RETURNING event_id
    )
    SELECT count(*) AS keys, count(*) - count(event_id) AS gone FROM noted
    """

    def skip(self, keys: Sequence[ParkedKey]) -> Skipped:
        """Give up the rows that parked keys wait for, where they still wait for the same, and free
        the keys."""
        parameters = _chosen(keys) | {"reason": SKIPPED}
        [skipped] = self._patiently(lambda: self._fetch(Skipped, self.SKIP, parameters))
        return skipped

    def _patiently(self, act: Callable[[], Done]) -> Done:
        for _ in range(DEADLOCK_TRIES - 1):
            try:
                return act()
            except psycopg.errors.DeadlockDetected:
                continue
        return act()


def _chosen(keys: Sequence[ParkedKey]) -> dict[str, object]:
    return {
        "buckets": [key.bucket for key in keys],
        "keys": [key.key for key in keys],
        "first_ids": [key.first_id for key in keys],
    }
