"""The SQL of reading rows: what is new, what came late, one receiver's, single keys'.

Every read is one statement on a connection of its own, bounded for each bucket in rows and bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from servicedesk import binary
from servicedesk.queue.row import Most, QueuedRow, Span
from servicedesk.queue.statements import Statements

HIGHEST = 2**63 - 1
NOWHERE: Mapping[int, int] = MappingProxyType({})
# QueuedRow._make is a function in Python, and would be called for every row.
make_row: Callable[[Sequence[Any]], QueuedRow] = partial(tuple.__new__, QueuedRow)


class RowStore:
    """Rows in order of id per bucket."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    # No lock. The primary key (bucket, id), twice a bucket, from the floor upwards: dead entries
    # below the floor are never visited, whatever vacuum may not yet remove. Fewer rows where the
    # biggest of them, so many times, would be more than the bucket's share of bytes; and one at
    # least. Sums over rows as they come would have each of them copied, payload and all.
    READ = """
    SELECT found.* FROM unnest(%(buckets)s::int2[], %(floors)s::int8[]) AS start(bucket, floor)
    CROSS JOIN LATERAL (
        SELECT {row}
        FROM {queue}
        WHERE bucket = start.bucket AND id > start.floor
        ORDER BY id LIMIT (
            SELECT CASE WHEN sum(size) <= %(bytes)s::int8 THEN %(most)s::int8
                        ELSE greatest(1, %(bytes)s::int8 / max(size)) END
            FROM (
                SELECT octet_length(payload) AS size
                FROM {queue}
                WHERE bucket = start.bucket AND id > start.floor
                ORDER BY id LIMIT %(most)s
            ) AS next)
    ) AS found
    """

    # The same, with the rows that became visible late, seen by the same snapshot, and without the
    # keys and receivers that are set aside. The primary key, two ranges a bucket: up to `ceiling`,
    # and to the row that fills its share of bytes, so `Most.filled` can tell whether there is more.
    # Keys come as a subquery, which is hashed: each row was compared with each of thousands.
    READ_CAREFULLY = """
    SELECT found.*
    FROM unnest(%(buckets)s::int2[], %(safe_floors)s::int8[], %(floors)s::int8[],
                %(ceilings)s::int8[]) AS start(bucket, safe_floor, floor, ceiling)
    CROSS JOIN LATERAL (
        (SELECT {row}
         FROM {queue}
         WHERE bucket = start.bucket AND id > start.safe_floor AND id <= start.floor
           AND id NOT IN (SELECT unnest(%(known)s::int8[]))
           AND {key} NOT IN (SELECT unnest(%(keys)s::text[]))
           AND {receiver} <> ALL(%(receivers)s::text[])
         ORDER BY id)
        UNION ALL
        (SELECT {columns} FROM (
            SELECT {row}, sum(octet_length(payload)) OVER so_far - octet_length(payload) AS before
            FROM {queue}
            WHERE bucket = start.bucket AND id > start.floor AND id <= start.ceiling
              AND {key} NOT IN (SELECT unnest(%(keys)s::text[]))
              AND {receiver} <> ALL(%(receivers)s::text[])
            WINDOW so_far AS (ORDER BY id ROWS UNBOUNDED PRECEDING)
            ORDER BY id LIMIT %(most)s
         ) AS next
         WHERE before < %(bytes)s)
    ) AS found
    ORDER BY found.id
    """

    async def read(
        self,
        spans: Sequence[Span],
        most: Most,
        *,
        known: Sequence[int] = (),
        ceilings: Mapping[int, int] = NOWHERE,
        without_keys: Sequence[str] = (),
        without_receivers: Sequence[str] = (),
    ) -> list[QueuedRow]:
        """All late rows but the `known` ones and up to `most` of the new ones in each bucket, none
        above the bucket's ceiling where it has one, in order of id per bucket."""
        values = {
            "buckets": binary.int2s([span.bucket for span in spans]),
            "floors": binary.int8s([span.floor for span in spans]),
            "most": binary.int8(most.rows),
            "bytes": binary.int8(most.payload_bytes),
        }
        careful = without_keys or without_receivers or any(s.safe_floor < s.floor for s in spans)
        if not careful:
            return await self._read(self.READ, values)
        values |= {
            "safe_floors": binary.int8s([span.safe_floor for span in spans]),
            "ceilings": binary.int8s([ceilings.get(span.bucket, HIGHEST) for span in spans]),
            "known": binary.int8s(known),
            "keys": binary.texts(without_keys),
            "receivers": binary.texts(without_receivers),
        }
        return await self._read(self.READ_CAREFULLY, values)

    async def _read(self, template: str, values: Mapping[str, bytes]) -> list[QueuedRow]:
        text = self._statements.text(template).decode()
        return await self._statements.reading.fetch(make_row, text, values)

    # No lock. The primary key, so many rows a bucket and one more.
    CEILINGS = """
    SELECT start.bucket, found.id
    FROM unnest(%(buckets)s::int2[], %(floors)s::int8[]) AS start(bucket, floor)
    CROSS JOIN LATERAL (
        SELECT id FROM {queue} WHERE bucket = start.bucket AND id > start.floor
        ORDER BY id OFFSET %(rows)s LIMIT 1
    ) AS found
    """

    async def ceilings(self, floors: Mapping[int, int], rows: int) -> dict[int, int]:
        """By bucket, how far a read may go so that it visits `rows` rows only, whether or not it
        takes them; without the buckets that have no more."""
        values = {
            "buckets": binary.int2s(list(floors)),
            "floors": binary.int8s(list(floors.values())),
            "rows": binary.int8(rows),
        }
        text = self._statements.text(self.CEILINGS).decode()
        found = await self._statements.reading.fetch(tuple, text, values)
        return {int(bucket): int(row_id) for bucket, row_id in found}

    # No lock. The primary key: one receiver that catches up by itself, up to where no row can
    # still appear, without its parked keys.
    READ_RECEIVER = """
    SELECT found.*
    FROM unnest(%(buckets)s::int2[], %(floors)s::int8[], %(ceilings)s::int8[])
         AS start(bucket, floor, ceiling)
    CROSS JOIN LATERAL (
        SELECT {columns} FROM (
            SELECT {row}, sum(octet_length(payload)) OVER so_far - octet_length(payload) AS before
            FROM {queue}
            WHERE bucket = start.bucket AND id > start.floor AND id <= start.ceiling
              AND {key} NOT IN (SELECT unnest(%(keys)s::text[])) AND {receiver} = %(receiver)s
            WINDOW so_far AS (ORDER BY id ROWS UNBOUNDED PRECEDING)
            ORDER BY id LIMIT %(most)s
        ) AS next
        WHERE before < %(bytes)s
    ) AS found
    """

    async def read_receiver(
        self,
        receiver: str,
        floors: dict[int, int],
        most: Most,
        *,
        ceilings: Mapping[int, int],
        without_keys: Sequence[str],
    ) -> list[QueuedRow]:
        """Up to `most` of the rows of one receiver in each bucket, with ids up to its ceiling."""
        values = {
            "receiver": receiver.encode(),
            "buckets": binary.int2s(list(floors)),
            "floors": binary.int8s(list(floors.values())),
            "ceilings": binary.int8s([ceilings[bucket] for bucket in floors]),
            "keys": binary.texts(without_keys),
            "most": binary.int8(most.rows),
            "bytes": binary.int8(most.payload_bytes),
        }
        return await self._read(self.READ_RECEIVER, values)

    # No lock. The primary key from a row on, once a key: its own rows, whatever else lies between.
    READ_KEYS = """
    SELECT found.*
    FROM unnest(%(buckets)s::int2[], %(keys)s::text[], %(ids)s::int8[]) AS again(bucket, key, id)
    CROSS JOIN LATERAL (
        SELECT {columns} FROM (
            SELECT {row}, sum(octet_length(payload)) OVER so_far - octet_length(payload) AS before
            FROM {queue}
            WHERE bucket = again.bucket AND id >= again.id AND {key} = again.key
            WINDOW so_far AS (ORDER BY id ROWS UNBOUNDED PRECEDING)
            ORDER BY id LIMIT %(most)s
        ) AS next
        WHERE before < %(bytes)s
    ) AS found
    """

    async def read_keys(self, keys: Sequence[tuple[int, str, int]], most: Most) -> list[QueuedRow]:
        """Up to `most` of the rows of each (bucket, key, id), from that id on, in their order."""
        values = {
            "buckets": binary.int2s([bucket for bucket, _, _ in keys]),
            "keys": binary.texts([key for _, key, _ in keys]),
            "ids": binary.int8s([row_id for _, _, row_id in keys]),
            "most": binary.int8(most.rows),
            "bytes": binary.int8(most.payload_bytes),
        }
        return await self._read(self.READ_KEYS, values)
