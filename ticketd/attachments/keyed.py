"""The statement that adds an attachment under an Idempotency-Key: both are there, or neither is.

Whoever loses the key gets what the winner left. Repeating after a lost connection finds the own
key, and so does no harm.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import orjson
import psycopg

from servicedesk.wire import Statement, Wire
from ticketd.attachments.statements import Added, Addition, outcome_of, values_of
from ticketd.idempotency import Kept, Key
from ticketd.representation import timestamp


class Announcement(NamedTuple):
    """What is kept under a key: the attachment, and when its upload ends. Never the URL, which is
    a secret."""

    attachment_id: UUID
    expires_at: datetime


def announcement_json(announcement: Announcement) -> bytes:
    attachment_id, expires_at = announcement
    return orjson.dumps({"attachment_id": attachment_id, "expires_at": timestamp(expires_at)})


def announcement_of(kept: Kept) -> Announcement:
    found = orjson.loads(kept.answer or b"{}")
    expires_at = datetime.fromisoformat(found["expires_at"])
    return Announcement(UUID(found["attachment_id"]), expires_at)


# As ADD, and then the key of what was added: who goes without a place leaves no key. Keys are the
# last thing that is waited for, so nobody waits in a circle. A key that is committed already is
# seen at the start; one that is committed while this waits for it undoes all of it, by an error,
# because an attachment must not be left without its key. Primary key of idempotency_key.
ADD_KEYED = Statement(
    "attachment_add_keyed",
    """
WITH ticket AS (
    SELECT id FROM tickets WHERE id = $2::uuid
), free AS (
    SELECT place FROM generate_series(1, $8::int8) AS place
    WHERE NOT EXISTS (
        SELECT FROM attachments WHERE ticket_id = $2::uuid AND slot = place
    )
    ORDER BY place LIMIT 1
), added AS (
    INSERT INTO attachments (id, ticket_id, slot, state, name, content_type, size, sha256,
                             created_at, late_until, sweep_at)
    SELECT $1::uuid, ticket.id, free.place, 'pending', $3::text, $4::text, $5::int8, $6::bytea,
           $7::timestamptz, now() + $9::int8 * interval '1 millisecond',
           now() + $9::int8 * interval '1 millisecond'
    FROM ticket, free
    WHERE NOT EXISTS (SELECT FROM idempotency_key WHERE digest = $10::uuid)
    ON CONFLICT DO NOTHING
    RETURNING ticket_id
), kept AS (
    INSERT INTO idempotency_key (digest, fingerprint, ticket_id, answer)
    SELECT $10::uuid, $11::uuid, ticket_id, $12::text FROM added
)
SELECT EXISTS (SELECT FROM ticket), EXISTS (SELECT FROM free), EXISTS (SELECT FROM added)
""",
)


async def add_keyed(wire: Wire, addition: Addition, announcement: Announcement, key: Key) -> Added:
    """Anything but "added" may be because the key is taken, also by this very statement, before
    its connection was lost."""
    values = [*values_of(addition), *key, announcement_json(announcement)]
    try:
        return outcome_of(wire, await wire.run(ADD_KEYED, values))
    except psycopg.errors.UniqueViolation:
        return "outrun"
