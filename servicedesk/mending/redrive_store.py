"""The SQL of redriving: dead rows, and dead letters, go back to the end of their queue, once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from servicedesk.bucket import bucket_of
from servicedesk.mending.act_store import ActStore
from servicedesk.mending.letter import Letter
from servicedesk.mending.store import DeadRow

# Any constant that no other program on the database uses; the queue's number is added.
REDRIVE_LOCK = 0x5E12_71CE_DEAD_00


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the database knows of one dead letter; `dead_id` is its dead row, while it is there."""

    number: int
    redriven: bool
    queued: bool
    dead_id: int | None
    dead_since: datetime | None


class RedriveStore(ActStore):
    """The acts that put rows back."""

    # One redriving of a queue after the other, so that what one has just put back is known to the
    # next. Nobody else takes this lock, and it ends with the transaction.
    LOCK = "SELECT pg_advisory_xact_lock(%(lock)s::int8)"

    # Row locks on dead rows, by primary key; whoever comes second finds them gone. created_at
    # stays: it is when the event occurred. New ids are given in the order of the numbers.
    REDRIVE = """
    WITH given AS (
        SELECT * FROM unnest(%(numbers)s::int4[], %(dead_ids)s::int8[], %(topics)s::text[],
                             %(partitions)s::int4[], %(offsets)s::int8[])
                      AS given (number, dead_id, topic, partition, place)
    ), back AS (
        DELETE FROM {queue}_dead USING given WHERE {queue}_dead.id = given.dead_id
        RETURNING given.number, {queue}_dead.*
    ), source AS (
        SELECT number, bucket, {receiver_column} aggregate_id, sequence, event_id, event_type,
               headers, payload, created_at, error, first_failed_at
        FROM back
        UNION ALL
        SELECT number, bucket, {receiver_column} aggregate_id, sequence, event_id, event_type,
               headers, payload, created_at, error, first_failed_at
        FROM unnest(%(letters)s::int4[], %(buckets)s::int2[], %(receivers)s::text[],
                    %(aggregate_ids)s::uuid[], %(sequences)s::int8[], %(event_ids)s::uuid[],
                    %(event_types)s::text[], %(headers)s::text[], %(payloads)s::text[],
                    %(created_ats)s::timestamptz[], %(errors)s::text[],
                    %(first_failed_ats)s::timestamptz[])
             AS letter (number, bucket, receiver, aggregate_id, sequence, event_id, event_type,
                        headers, payload, created_at, error, first_failed_at)
    ), queued AS (
        INSERT INTO {queue} (bucket, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at)
        SELECT bucket, {receiver_column} aggregate_id, sequence, event_id,
            event_type, headers, payload, created_at
        FROM source ORDER BY number
    ), noted AS (
        INSERT INTO mending_history
            (queue, act, operator, selection, event_id, key, error, first_failed_at, outcome,
             topic, partition, "offset")
        SELECT '{queue}', 'redrive', %(operator)s, %(selection)s, event_id, {key}, error,
               first_failed_at, 'queued again', given.topic, given.partition, given.place
        FROM source AS {queue} JOIN given USING (number) ORDER BY number
        RETURNING 1
    )
    SELECT count(*) FROM noted
    """

    def redrive_rows(self, rows: Sequence[DeadRow]) -> int:
        """Put dead rows back at the end of the queue, with no attempts against them."""
        nowhere = [None] * len(rows)
        parameters = _letters([]) | {
            "numbers": list(range(len(rows))),
            "dead_ids": [row.id for row in rows],
            "topics": nowhere,
            "partitions": nowhere,
            "offsets": nowhere,
        }
        with self._connection.transaction():
            self._lock()
            return self._integer(self.REDRIVE, parameters)

    # The indexes mending_history_event and {queue}_dead_event, and the primary keys of the parked
    # keys and of their rows.
    JUDGE = """
    SELECT letter.number, dead.id AS dead_id, dead.first_failed_at AS dead_since,
           before.event_id IS NOT NULL AS redriven, first.event_id IS NOT NULL AS queued
    FROM unnest(%(numbers)s::int4[], %(event_ids)s::uuid[], %(keys)s::text[], %(buckets)s::int2[],
                %(first_failed_ats)s::timestamptz[])
         AS letter (number, event_id, key, bucket, first_failed_at)
    LEFT JOIN LATERAL (
        SELECT id, first_failed_at FROM {queue}_dead AS {queue}
        WHERE event_id = letter.event_id AND {key} = letter.key
        ORDER BY id DESC LIMIT 1
    ) AS dead ON true
    LEFT JOIN LATERAL (
        SELECT event_id FROM mending_history
        WHERE event_id = letter.event_id AND queue = '{queue}' AND act = 'redrive'
          AND key = letter.key AND first_failed_at = letter.first_failed_at
        LIMIT 1
    ) AS before ON true
    LEFT JOIN LATERAL (
        SELECT (SELECT event_id FROM {queue}
                WHERE bucket = parked.bucket AND id = parked.first_id) AS event_id
        FROM {queue}_parked AS parked
        WHERE bucket = letter.bucket AND key = letter.key
        LIMIT 1
    ) AS first ON first.event_id = letter.event_id
    ORDER BY letter.number
    """

    def judge(self, letters: Sequence[tuple[UUID, str, datetime]]) -> list[Judged]:
        """What is known of deaths, each an event id, a key and when it first failed; in order."""
        parameters = {
            "numbers": list(range(len(letters))),
            "event_ids": [event_id for event_id, _, _ in letters],
            "keys": [key for _, key, _ in letters],
            "buckets": [bucket_of(key) for _, key, _ in letters],
            "first_failed_ats": [since for _, _, since in letters],
        }
        return self._fetch(Judged, self.JUDGE, parameters)

    def redrive_letters(self, choose: Callable[[], Sequence[tuple[Letter, int | None]]]) -> int:
        """Put back what `choose` returns, in its order: the dead row with the id given, or else
        the letter's own row. `choose` may `judge`: nobody redrives meanwhile."""
        with self._connection.transaction():
            self._lock()
            chosen = choose()
            records = [letter.record for letter, _ in chosen]
            alone = [(n, one) for n, (one, dead_id) in enumerate(chosen) if dead_id is None]
            parameters = _letters(alone) | {
                "numbers": list(range(len(chosen))),
                "dead_ids": [dead_id for _, dead_id in chosen],
                "topics": [record.topic for record in records],
                "partitions": [record.partition for record in records],
                "offsets": [record.offset for record in records],
            }
            return self._integer(self.REDRIVE, parameters) if chosen else 0

    def _lock(self) -> None:
        number = REDRIVE_LOCK + int(self._tables.has_receiver)
        self._connection.execute(self.LOCK, {"lock": number})


def _letters(numbered: Sequence[tuple[int, Letter]]) -> dict[str, object]:
    """The columns of the letters' own rows."""
    rows = [(number, one, one.row) for number, one in numbered if one.row is not None]
    return {
        "letters": [number for number, _, _ in rows],
        "buckets": [row.bucket for _, _, row in rows],
        "receivers": [row.receiver for _, _, row in rows],
        "aggregate_ids": [row.aggregate_id for _, _, row in rows],
        "sequences": [row.sequence for _, _, row in rows],
        "event_ids": [UUID(row.event_id) for _, _, row in rows],
        "event_types": [row.event_type for _, _, row in rows],
        "headers": [row.headers for _, _, row in rows],
        "payloads": [row.payload.decode() for _, _, row in rows],
        "created_ats": [row.created_at for _, _, row in rows],
        "errors": [one.error for _, one, _ in rows],
        "first_failed_ats": [one.first_failed_at for _, one, _ in rows],
    }
