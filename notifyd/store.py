"""notifyd's own SQL: taking events in, each once, and trimming what is old.

The deliveries are drained by servicedesk.queue. An event is in the inbox exactly when its
deliveries have been queued: both are one statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from notifyd.notifications import Subscriptions
from notifyd.record import Arrival, delivery_headers
from servicedesk import binary
from servicedesk.bucket import bucket_of
from servicedesk.database import require_schema
from servicedesk.queue.hot import HotConnection
from servicedesk.queue.row import queue_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """`fresh` events were new, the others had been taken in before."""

    fresh: int
    deliveries: int


class Packed(NamedTuple):
    """So many events, as the parameters of the statement that takes them in."""

    events: int
    values: dict[str, bytes]


# The inbox is filled in order of event ids, so that two notifyd that were given the same records
# during a rebalance wait for each other instead of deadlocking; both locks, on the new entries of
# inbox_pkey, end with the statement. The second of the two gets its delivery ids only after that
# wait, because the join needs all of `fresh` first, so it cannot overtake the first.
# The deliveries keep the order of the batch: identity values are drawn after the sort.
# Index relied upon: inbox_pkey.
INGEST = """
WITH fresh AS (
    INSERT INTO inbox (event_id, topic, partition, "offset")
    SELECT e.event_id, e.topic, e.partition, e.position
    FROM unnest(%(event_ids)s::uuid[], %(topics)s::text[], %(partitions)s::int[],
                %(offsets)s::bigint[]) AS e (event_id, topic, partition, position)
    ORDER BY e.event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
), queued AS (
    INSERT INTO delivery (bucket, receiver, aggregate_id, sequence, event_id, event_type,
                          headers, payload)
    SELECT d.bucket, d.receiver, e.aggregate_id, e.sequence, e.event_id, e.event_type,
           e.headers, e.payload
    FROM unnest(%(wanted_ids)s::uuid[], %(aggregate_ids)s::uuid[], %(sequences)s::bigint[],
                %(event_types)s::text[], %(headers)s::text[], %(payloads)s::text[])
         WITH ORDINALITY
         AS e (event_id, aggregate_id, sequence, event_type, headers, payload, place)
    JOIN fresh USING (event_id)
    JOIN unnest(%(places)s::bigint[], %(buckets)s::smallint[], %(receivers)s::text[])
         WITH ORDINALITY AS d (place, bucket, receiver, turn) USING (place)
    ORDER BY d.turn
    RETURNING 1
)
SELECT (SELECT count(*) FROM fresh), (SELECT count(*) FROM queued)
"""

# Row locks on the rows it deletes, skipping those another notifyd is trimming right now.
# Index relied upon: inbox_received finds the oldest, the rows are then reached by their ctid, which
# stands still because inbox rows are never updated.
TRIM_INBOX = """
DELETE FROM inbox WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM inbox WHERE received_at < now() - make_interval(secs => %(age_seconds)s)
    ORDER BY received_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED))
"""

# As above, with the index delivery_done_delivered.
TRIM_DONE = """
DELETE FROM delivery_done WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM delivery_done
    WHERE delivered_at < now() - make_interval(secs => %(age_seconds)s)
    ORDER BY delivered_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED))
"""


class InboxStore:
    """Every method is one transaction. Raises psycopg.Error; see servicedesk.database.AWAY."""

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncConnection[tuple[object, ...]]],
        subscriptions: Subscriptions,
        seconds: float = 15.0,
    ) -> None:
        """A statement of `ingest` may take `seconds`."""
        self._pool = pool
        self._hot = HotConnection(pool, seconds)
        self._subscriptions = subscriptions

    async def check_schema(self) -> None:
        """Raises SchemaError when the database has not been migrated far enough."""
        async with self._pool.connection() as connection:
            await require_schema(connection)

    async def ingest(self, packed: Packed) -> Ingested:
        """Take in a batch: new events get their deliveries, known ones are passed over.

        Repeating it is safe. Per ticket and receiver the deliveries' ids keep the batch's order.
        """
        [(fresh, deliveries)] = await self._hot.fetch(tuple, INGEST, packed.values)
        return Ingested(fresh=fresh, deliveries=deliveries)

    async def close(self) -> None:
        await self._hot.close()

    async def trim_inbox(self, age_seconds: float, rows: int) -> int:
        """Forget at most `rows` events taken in longer ago than `age_seconds`; how many it was."""
        return await self._trim(TRIM_INBOX, age_seconds, rows)

    async def trim_done(self, age_seconds: float, rows: int) -> int:
        """Forget at most `rows` deliveries acknowledged longer ago; how many it was."""
        return await self._trim(TRIM_DONE, age_seconds, rows)

    async def _trim(self, statement: str, age_seconds: float, rows: int) -> int:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                statement.encode(), {"age_seconds": age_seconds, "rows": rows}
            )
            return cursor.rowcount

    def wants(self, event_type: str) -> bool:
        """Whether deliveries of such an event are queued."""
        return bool(self._subscriptions.receivers_of(event_type))

    def pack(self, arrivals: Sequence[Arrival]) -> Packed:
        """For `ingest`; on any thread."""
        unique: dict[bytes, Arrival] = {}
        for arrival in arrivals:
            # A producer's repeat within one batch: the join would queue its deliveries twice.
            unique.setdefault(arrival.event_id, arrival)
        events = list(unique.values())
        values = {
            "event_ids": binary.uuids_of_bytes([event.event_id for event in events]),
            "topics": binary.texts([event.record.topic for event in events]),
            "partitions": binary.int4s([event.record.partition for event in events]),
            "offsets": binary.int8s([event.record.offset for event in events]),
            **self._deliveries(events),
        }
        return Packed(len(arrivals), values)

    def _deliveries(self, events: Sequence[Arrival]) -> dict[str, bytes]:
        """Of the events that somebody wants; nothing is sent of the others but their ids."""
        wanted: list[Arrival] = []
        places: list[int] = []
        buckets: list[int] = []
        receivers: list[str] = []
        for event in events:
            found = self._subscriptions.receivers_of(event.event_type)
            if not found:
                continue
            wanted.append(event)
            for receiver in found:
                places.append(len(wanted))
                buckets.append(bucket_of(queue_key(event.aggregate_id, receiver)))
                receivers.append(receiver)
        return {
            "wanted_ids": binary.uuids_of_bytes([event.event_id for event in wanted]),
            "aggregate_ids": binary.uuids_of_bytes(
                [bytes.fromhex(event.aggregate_id.replace("-", "")) for event in wanted]
            ),
            "sequences": binary.int8s([event.sequence for event in wanted]),
            "event_types": binary.texts([event.event_type for event in wanted]),
            "headers": binary.utf8s([delivery_headers(event) for event in wanted]),
            "payloads": binary.utf8s([event.record.value or b"" for event in wanted]),
            "places": binary.int8s(places),
            "buckets": binary.int2s(buckets),
            "receivers": binary.texts(receivers),
        }
