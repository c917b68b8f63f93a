"""The rows that wait in an outbox: events of tickets, four of each, near each other in time.

The same events for everybody, in the table that each contestant reads: ours, the usual one with a
status column, and that of Debezium's outbox event router, whose payload is the whole envelope.
"""

import random
from dataclasses import dataclass

import psycopg

EVENTS_PER_TICKET = 4
# Within so many events their tickets take turns, as changes do that are minutes apart.
WINDOW = 10_000
TICKETS = WINDOW // EVENTS_PER_TICKET
STEP = 20_000
TAILS = 64
HEADERS = (
    '{"request_id":"019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10",'
    '"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
)
WORDS = [
    "принтер",
    "не",
    "печатает",
    "в",
    "отделе",
    "продаж",
    "горит",
    "красная",
    "лампа",
    "бумага",
    "есть",
    "перезапуск",
    "помог",
    "the",
    "screen",
    "stays",
    "black",
    "after",
    "login",
    "network",
    "drive",
    "gone",
    "since",
    "monday",
    "please",
    "call",
    "back",
]
# {"id":"…",
HEAD_BYTES = 45


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """A table of waiting events: how it is made, filled and signalled."""

    schema: str
    insert: str
    table: str


# `first` and `last` are numbers of events, `tails` the ends of payloads. Only constants of this
# module go into the texts.
# ruff: noqa: S608
EVENTS = f"""
SELECT number, ticket, 1 + mod(number, {WINDOW}) / {TICKETS} AS sequence, uuidv7() AS event_id,
       CASE WHEN mod(number, {WINDOW}) < {TICKETS} THEN 'ticket.created' ELSE 'ticket.updated' END
           AS event_type,
       '{{"id":"' || ticket || '",' || (%(tails)s::text[])[1 + mod(number, {TAILS})] AS payload
FROM (SELECT number, md5('ticket ' || number / {WINDOW} || ' ' || mod(number, {TICKETS}))::uuid
             AS ticket
      FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number) AS numbered
"""

OURS = Outbox(
    schema="",
    table="outbox",
    insert=f"""
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT crc32(convert_to(ticket::text, 'UTF8')) & 63, ticket, sequence, event_id, event_type,
       %(headers)s, payload
FROM ({EVENTS}) AS event ORDER BY number
""",
)

USUAL = Outbox(
    schema="""
CREATE TABLE outbox_usual (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, aggregate_id uuid NOT NULL,
    sequence bigint NOT NULL, event_id uuid NOT NULL, event_type text NOT NULL,
    headers text NOT NULL, payload text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    status text NOT NULL DEFAULT 'pending', sent_at timestamptz
);
CREATE INDEX outbox_usual_pending ON outbox_usual (id) WHERE status = 'pending';
""",
    table="outbox_usual",
    insert=f"""
INSERT INTO outbox_usual (aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT ticket, sequence, event_id, event_type, %(headers)s, payload
FROM ({EVENTS}) AS event ORDER BY number
""",
)

# The envelope is made here, where relayd makes it while it relays.
DEBEZIUM = Outbox(
    schema="""
CREATE TABLE outbox_debezium (
    id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL, payload text NOT NULL
);
""",
    table="outbox_debezium",
    insert=f"""
INSERT INTO outbox_debezium (id, aggregatetype, aggregateid, type, payload)
SELECT event_id, 'ticket', ticket::text, event_type,
       '{{"event_id":"' || event_id || '","event_type":"' || event_type || '","occurred_at":"'
       || to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
       || '","aggregate":"ticket","aggregate_id":"' || ticket || '","sequence":' || sequence
       || ',"payload":' || payload || '}}'
FROM ({EVENTS}) AS event
WHERE %(headers)s <> '' ORDER BY number
""",
)


def tails(size: int) -> list[str]:
    """Ends of payloads that are `size` bytes long as a whole: texts in two scripts, JSON."""
    chance = random.Random(11)
    room = max(size - HEAD_BYTES - len('"title":""}'), 0)
    return [f'"title":"{_text(room, chance)}"}}' for _ in range(TAILS)]


def _text(size: int, chance: random.Random) -> str:
    """Exactly `size` bytes of UTF-8."""
    found = ""
    while len(found.encode()) < size:
        found += f"{chance.choice(WORDS)} {chance.randrange(100_000)} "
    cut = found.encode()[:size].decode(errors="ignore")
    return cut + "." * (size - len(cut.encode()))


def fill(url: str, outbox: Outbox, events: int, size: int, *, at_once: bool = False) -> None:
    """In transactions of `STEP` events, or with `at_once` in one, so that no row is seen before
    all are; with fresh statistics and everything written out."""
    ends = tails(size)
    with psycopg.connect(url, autocommit=not at_once) as connection:
        for first in range(0, events, STEP):
            last = min(first + STEP, events) - 1
            values = {"first": first, "last": last, "tails": ends, "headers": HEADERS}
            connection.execute(outbox.insert, values)
        # No VACUUM within a transaction.
        connection.execute(f"{'ANALYZE' if at_once else 'VACUUM (ANALYZE)'} {outbox.table}")
        connection.execute("CHECKPOINT")
