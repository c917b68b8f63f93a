"""The statements that carry requests with an Idempotency-Key: the key is written in the transaction
of its ticket and event, so all three are there or none.

Who of several with one key wins is decided by the primary key of idempotency_key, between the
requests of one batch, of two lanes and of two processes alike. Whoever loses gets what the winner
left. Repeating after a lost connection finds the own key, and so does no harm.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from servicedesk import binary
from servicedesk.wire import Statement, Wire
from ticketd.batches import Write, change_many, changes, creation, creations
from ticketd.errors import OverloadedError
from ticketd.events import TicketEvent
from ticketd.idempotency import Kept, Key
from ticketd.representation import ticket_json
from ticketd.tickets import Ticket

# A loser whose winner's key expires before it is read tries again; twice is very unlikely already.
ATTEMPTS = 3


class KeyedCreation(NamedTuple):
    """A Creation under a key."""

    ticket: Ticket
    event: TicketEvent
    key: Key


# Locks its own new rows, and waits for the transaction of another row with one of its digests.
# Digests are inserted in their order, so two batches never wait for each other in a circle; after
# them nothing is waited for. Returns the digests that are taken. Primary key of idempotency_key.
CREATE_KEYED_MANY = Statement(
    "create_keyed_many",
    """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
        $8::int2[], $9::uuid[], $10::text[], $11::text[], $12::text[], $13::uuid[], $14::uuid[]
    ) AS row (id, title, description, priority, requester, assignee, created_at,
              bucket, event_id, event_type, headers, payload, digest, fingerprint)
), kept AS (
    INSERT INTO idempotency_key (digest, fingerprint, ticket_id)
    SELECT digest, fingerprint, id FROM given ORDER BY digest
    ON CONFLICT (digest) DO NOTHING
    RETURNING digest
), created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    SELECT id, title, description, 'new', priority, requester, assignee,
           1, created_at, created_at, NULL
    FROM given JOIN kept USING (digest)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), announced AS (
    INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
    SELECT bucket, id, 1, event_id, event_type, headers, payload
    FROM given JOIN created USING (id)
)
SELECT digest FROM given WHERE NOT EXISTS (SELECT FROM kept WHERE kept.digest = given.digest)
""",
)

# The same for a request that came alone: a shorter plan, and no arrays.
CREATE_KEYED = Statement(
    "create_keyed",
    """
WITH kept AS (
    INSERT INTO idempotency_key (digest, fingerprint, ticket_id)
    VALUES ($13::uuid, $14::uuid, $1::uuid)
    ON CONFLICT (digest) DO NOTHING
    RETURNING ticket_id
), created AS (
    INSERT INTO tickets (id, title, description, status, priority, requester, assignee,
                         version, created_at, updated_at, closed_at)
    SELECT $1::uuid, $2::text, $3::text, 'new', $4::text, $5::text, $6::text,
           1, $7::timestamptz, $7::timestamptz, NULL
    FROM kept
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), announced AS (
    INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
    SELECT $8::int2, id, 1, $9::uuid, $10::text, $11::text, $12::text FROM created
)
SELECT $13::uuid AS digest WHERE NOT EXISTS (SELECT FROM kept)
""",
)


async def create_keyed(wire: Wire, items: Sequence[KeyedCreation]) -> Sequence[Kept]:
    """What is kept under each item's key after the commit, be it the item's own doing or not.

    Items of one key share one row: the first of them goes into the statement for all.
    """
    kept: dict[bytes, Kept] = {}
    undecided = {item.key.digest: item for item in reversed(items)}
    for _ in range(ATTEMPTS):
        lost = await _insert(wire, list(undecided.values()))
        for digest, item in undecided.items():
            if digest not in lost:
                kept[digest] = Kept(item.key.fingerprint, item.ticket.id, None)
        if lost:
            kept |= await _find(wire, lost)
        undecided = {digest: item for digest, item in undecided.items() if digest not in kept}
        if not undecided:
            return [kept[item.key.digest] for item in items]
    raise OverloadedError


async def _insert(wire: Wire, items: Sequence[KeyedCreation]) -> set[bytes]:
    """The digests that were taken already."""
    keys = [item.key for item in items]
    if len(items) == 1:
        row = [*creation(items[0].ticket, items[0].event), *keys[0]]
        result = await wire.run(CREATE_KEYED, row)
    else:
        columns = creations([item.ticket for item in items], [item.event for item in items])
        columns.append(binary.uuids_of_bytes([key.digest for key in keys]))
        columns.append(binary.uuids_of_bytes([key.fingerprint for key in keys]))
        result = await wire.run(CREATE_KEYED_MANY, columns)
    if not result.ntuples:
        return set()
    return set(wire.rows(result, lambda row: row[0].bytes))


# As CHANGE_MANY, and a key that is taken is as good as a lost race. A digest belongs to one ticket,
# whose row is locked before its digest is inserted, so nobody else is just inserting it.
CHANGE_KEYED_MANY = Statement(
    "change_keyed_many",
    """
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::int8[], $8::timestamptz[], $9::timestamptz[], $10::int8[],
        $11::int2[], $12::uuid[], $13::text[], $14::text[], $15::text[],
        $16::uuid[], $17::uuid[], $18::text[]
    ) AS row (id, title, description, status, priority, assignee,
              version, updated_at, closed_at, from_version,
              bucket, event_id, event_type, headers, payload,
              digest, fingerprint, answer)
), locked AS MATERIALIZED (
    SELECT tickets.id FROM tickets JOIN given ON given.id = tickets.id
    WHERE tickets.version = given.from_version
    ORDER BY tickets.id FOR NO KEY UPDATE OF tickets
), kept AS (
    INSERT INTO idempotency_key (digest, fingerprint, ticket_id, answer)
    SELECT digest, fingerprint, id, answer FROM given JOIN locked USING (id)
    WHERE digest IS NOT NULL
    ON CONFLICT (digest) DO NOTHING
    RETURNING digest
), changed AS (
    UPDATE tickets
    SET title = given.title, description = given.description, status = given.status,
        priority = given.priority, assignee = given.assignee, version = given.version,
        updated_at = given.updated_at, closed_at = given.closed_at
    FROM given JOIN locked USING (id)
    WHERE tickets.id = given.id AND tickets.version = given.from_version
        AND (given.digest IS NULL OR given.digest IN (SELECT digest FROM kept))
    RETURNING tickets.id
)
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, id, version, event_id, event_type, headers, payload
FROM given JOIN changed USING (id)
RETURNING aggregate_id
""",
)


async def change_perhaps_keyed(wire: Wire, items: Sequence[Write]) -> Sequence[bool | None]:
    """As `change_many`, for writes of which some may have a key; a taken key loses."""
    keys = [item.key for item in items]
    if not any(keys):
        return await change_many(wire, items)
    columns = changes(items)
    columns.append(binary.uuids_of_bytes([key and key.digest for key in keys]))
    columns.append(binary.uuids_of_bytes([key and key.fingerprint for key in keys]))
    columns.append(
        binary.utf8s_or_null([ticket_json(item.ticket) if item.key else None for item in items])
    )
    result = await wire.run(CHANGE_KEYED_MANY, columns)
    won = set(wire.rows(result, lambda row: row[0]))
    return [item.ticket.id in won for item in items]


# Primary key of idempotency_key, one probe a digest; no lock.
FIND_KEPT = Statement(
    "find_kept",
    """
SELECT digest, fingerprint, ticket_id, answer FROM idempotency_key WHERE digest = ANY($1::uuid[])
""",
)


async def find_kept(wire: Wire, items: Sequence[bytes]) -> Sequence[Kept | None]:
    """What is kept under each digest; None where there is nothing."""
    found = await _find(wire, set(items))
    return [found.get(digest) for digest in items]


async def _find(wire: Wire, digests: set[bytes]) -> dict[bytes, Kept]:
    result = await wire.run(FIND_KEPT, [binary.uuids_of_bytes(list(digests))])
    return dict(wire.rows(result, _kept_of))


def _kept_of(row: Sequence[Any]) -> tuple[bytes, Kept]:
    digest, fingerprint, ticket_id, answer = row
    body = None if answer is None else answer.encode()
    return digest.bytes, Kept(fingerprint.bytes, ticket_id, body)
