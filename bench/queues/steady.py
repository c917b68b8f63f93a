"""The statements that write events one small batch after another, one for each outbox's table."""

import secrets
from collections.abc import Mapping
from uuid import UUID

GIVEN = """
FROM unnest(%(buckets)s::int2[], %(tickets)s::uuid[], %(sequences)s::int8[], %(ids)s::uuid[],
            %(headers)s::text[], %(payloads)s::text[]) WITH ORDINALITY
     AS given (bucket, ticket, sequence, event_id, headers, payload, place)
ORDER BY place
"""
STATEMENTS: Mapping[str, str] = {
    "outbox": f"""
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT bucket, ticket, sequence, event_id, 'ticket.updated', headers, payload {GIVEN}""",
    "outbox_usual": f"""
INSERT INTO outbox_usual (aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT ticket, sequence, event_id, 'ticket.updated', headers, payload {GIVEN}""",
    "outbox_debezium": f"""
INSERT INTO outbox_debezium (id, aggregatetype, aggregateid, type, payload)
SELECT event_id, 'ticket', ticket::text, 'ticket.updated',
       '{{"event_id":"' || event_id || '","event_type":"ticket.updated","occurred_at":"'
       || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
       || '","aggregate":"ticket","aggregate_id":"' || ticket || '","sequence":' || sequence
       || ',"payload":' || payload || '}}'
{GIVEN}""",
}


def uuid7(now: float) -> UUID:
    """RFC 9562, 5.7; `now` in seconds since 1970."""
    tail = 0b10 << 62 | secrets.randbits(62)
    return UUID(int=round(now * 1000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | tail)
