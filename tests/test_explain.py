"""No query of the daemons reads a big table from end to end.

Every query is explained on tables of 100,000 rows, once with sample values and once as the generic
plan that PostgreSQL may change to for a prepared statement.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from deploy.local.postgres import Postgres
from servicedesk.queue.statements import render
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.support.queries import Query, daemon_queries, nameless_sql

ROWS = 100_000
# Of parked keys: more at once would be an incident, and a worker reads all of its own.
PARKED_ROWS = 5_000

# Small by design, so a sequential scan is the right plan for them.
SMALL_TABLES = {
    "outbox_bucket": "64 rows, always",
    "delivery_bucket": "64 rows, always",
    "outbox_worker": "a row for each running relayd",
    "delivery_worker": "a row for each running notifyd",
    "cache_gate": "one row, always",
    "schema_migration": "a row for each file in sql/",
    "pg_database": "a row for each database of the server",
}
# By their meaning these read all of a table that is small where all is well, and only when a
# person asks for it on the command line.
WHOLE_TABLE = {
    ("MendingStore.TOTALS", "parked"): "counts the parked keys",
    ("MendingStore.TOTALS", "dead"): "counts the dead rows",
    ("MendingStore.PARKED", "parked"): "shows the keys that have been parked longest",
    ("MendingStore.COUNT_PARKED", "parked"): "counts the parked keys",
    ("MendingStore.COUNT_DEAD", "dead"): "counts the dead rows",
    ("ParkedStore.RETRY", "parked"): "meets a batch of the parked keys",
    ("ParkedStore.SKIP", "parked"): "meets a batch of the parked keys",
    ("MendingStore.DEAD", "dead"): "would in a generic plan, which the commands never ask for",
    ("MendingStore.HISTORY", "history"): "would in a generic plan, as above",
}
# EXPLAIN does not take these verbs; they touch no table.
NOT_EXPLAINED = re.compile(r"\s*(LISTEN|NOTIFY)\s")
# Text that begins as SQL outside of a constant, and why it is not looked at here.
NAMELESS = {
    "servicedesk/migrate.py": "runs before the daemons, on the table of migrations only",
    "ticketd/pages.py": "the builder of PAGES, whose results are looked at",
}

TICKET = UUID(int=(1_700_000_050_000 << 80) | 0x7000_8000_0000_0000_C350)
LOWEST, HIGHEST = UUID(int=0), UUID(int=2**128 - 1)
EVENT = UUID(int=50_000)
SOME = list(range(500))
BUCKETS = {
    "buckets": [3, 7, 11, 60],
    "floors": [0, 60_000, 99_000, 0],
    "most": 500,
    "bytes": 250_000,
}
AGAIN = {
    "buckets": [3, 7],
    "keys": ["k1", "k2"],
    "ids": [99_000, 99_000],
    "most": 500,
    "bytes": 250_000,
}
CEILINGS = [60_000, 99_000, 2**63 - 1, 70_000]
APART = {"keys": ["k1", "k2"], "receivers": ["webhook"]}
OUTBOX_COLUMNS = (3, EVENT, "ticket.updated", "{}", "{}")
FAILED: dict[str, object] = {"bucket": 3, "key": "k", "id": 7, "error": "refused"}
FAILED_MANY: dict[str, object] = {
    "buckets": [n % 64 for n in SOME],
    "epochs": [1] * 500,
    "keys": [f"key {n}" for n in SOME],
    "ids": SOME,
    "attempts": [1] * 500,
    "waits": [1.5] * 500,
    "errors": ["refused"] * 500,
}
TICKET_COLUMNS = ("title", "text", "new", "low")
NOW = "2026-01-15T08:00:00Z"
KEY = (EVENT, EVENT)
NEW_ATTACHMENT = (EVENT, TICKET, "name", "text/plain", 5, b"0" * 32, NOW, 20, 60_000)
NEW_TICKET = ("title", "text", "low", "anna", None, NOW)
INGESTED: dict[str, object] = {
    **{key: [UUID(int=number) for number in SOME] for key in ("event_ids", "wanted_ids")},
    "aggregate_ids": [TICKET] * 500,
    "receivers": ["log"] * 500,
    "event_types": ["ticket.created"] * 500,
    "buckets": [number % 64 for number in SOME],
    **dict.fromkeys(("topics", "headers", "payloads"), ["{}"] * 500),
    **dict.fromkeys(("partitions", "offsets", "sequences", "places"), SOME),
}

# Nothing is narrowed: the most that may be read.
CHOSEN: dict[str, object] = dict.fromkeys(("event_ids", "keys", "error", "since", "until"))
AUTHOR: dict[str, object] = {"operator": "root@host", "selection": "--all"}
PARKED_KEYS: dict[str, object] = {
    "buckets": [number % 64 for number in SOME],
    "keys": [f"key {number}" for number in SOME],
    "first_ids": SOME,
}
REDRIVEN: dict[str, object] = {
    "aggregate_ids": [TICKET] * 500,
    "event_ids": [UUID(int=number) for number in SOME],
    "buckets": [number % 64 for number in SOME],
    "receivers": ["log"] * 500,
    "event_types": ["ticket.created"] * 500,
    **dict.fromkeys(("topics", "headers", "payloads", "errors"), ["{}"] * 500),
    **dict.fromkeys(("numbers", "dead_ids", "letters", "partitions", "offsets"), SOME),
    "sequences": SOME,
    **dict.fromkeys(("created_ats", "first_failed_ats"), [NOW] * 500),
}


def many(row: Sequence[object]) -> list[list[object]]:
    """A batch of a hundred such rows, column by column."""
    return [[value] * 100 for value in row]


Parameters = Sequence[object] | Mapping[str, object]
SAMPLES: dict[str, Parameters] = {
    "servicedesk.database.IS_MIGRATED": (),
    "servicedesk.database.NEWEST_MIGRATION": (),
    "ticketd.lanes.LOCK_TIMEOUT": (),
    "ticketd.batches.CREATE": (TICKET, *NEW_TICKET, *OUTBOX_COLUMNS),
    "ticketd.batches.CREATE_MANY": many((TICKET, *NEW_TICKET, *OUTBOX_COLUMNS)),
    "ticketd.batches.GET_MANY": ([UUID(int=number) for number in range(100)],),
    "ticketd.batches.NOT_HELD": ([UUID(int=number) for number in range(100)],),
    "ticketd.batches.CHANGE_MANY": many(
        (TICKET, *TICKET_COLUMNS, "igor", 2, NOW, None, 1, *OUTBOX_COLUMNS)
    ),
    "ticketd.keyed.CREATE_KEYED": (TICKET, *NEW_TICKET, *OUTBOX_COLUMNS, *KEY),
    "ticketd.keyed.CREATE_KEYED_MANY": many((TICKET, *NEW_TICKET, *OUTBOX_COLUMNS, *KEY)),
    "ticketd.keyed.CHANGE_KEYED_MANY": many(
        (TICKET, *TICKET_COLUMNS, "igor", 2, NOW, None, 1, *OUTBOX_COLUMNS, *KEY, "{}")
    ),
    "Gate.LOOK": (),
    "Gate.CLOSE": (),
    "Gate.OPEN": ("server",),
    "ticketd.installation.INSTALLATION": (),
    "ticketd.keyed.FIND_KEPT": ([UUID(int=number) for number in range(100)],),
    "KeyExpiry.EXPIRE": {"age_seconds": 86_400.0, "rows": 1000},
    "ticketd.attachments.statements.ADD": NEW_ATTACHMENT,
    "ticketd.attachments.keyed.ADD_KEYED": (*NEW_ATTACHMENT, *KEY, "{}"),
    "ticketd.attachments.statements.FIND": (EVENT, TICKET),
    "ticketd.attachments.statements.LIST": (TICKET,),
    "ticketd.attachments.statements.COMPLETE": (EVENT, TICKET, 2, NOW, *OUTBOX_COLUMNS, NOW),
    "ticketd.attachments.statements.REMOVE": (EVENT, TICKET, 2, NOW, *OUTBOX_COLUMNS),
    "ticketd.attachments.statements.GIVE_UP": (EVENT,),
    "ticketd.attachments.statements.TAKE_DUE": (100, 30_000),
    "ticketd.attachments.statements.FORGET": ([UUID(int=number) for number in range(100)],),
    "LeaseStore.COUNT_BUCKETS": {},
    "LeaseStore.COUNT_WORKERS": {},
    "LeaseStore.RENEW": {"owner": "me", "lease": 10.0},
    "LeaseStore.CLAIM": {"owner": "me", "lease": 10.0, "most": 32},
    "LeaseStore.RELEASE": {"owner": "me", "buckets": [1, 2]},
    "LeaseStore.LEAVE": {"owner": "me"},
    "RowStore.READ": BUCKETS,
    "RowStore.READ_CAREFULLY": BUCKETS
    | APART
    | {"safe_floors": [0, 59_000, 98_000, 0], "known": SOME, "ceilings": CEILINGS},
    "RowStore.CEILINGS": BUCKETS | {"rows": 100},
    "RowStore.READ_RECEIVER": BUCKETS | APART | {"receiver": "webhook", "ceilings": CEILINGS},
    "RowStore.READ_KEYS": AGAIN,
    "HorizonStore.NEWEST_ID": {},
    "HorizonStore.WRITERS": {},
    "QueueStore.COMPLETE": {"buckets": [n % 64 for n in SOME], "ids": SOME},
    "QueueStore.COMPLETE_AND_KEEP": {"buckets": [n % 64 for n in SOME], "ids": SOME},
    "QueueStore.PARK": {"owner": "me"} | FAILED_MANY,
    "QueueStore.UNPARK": {"buckets": [3, 7], "keys": ["k1", "k2"], "ids": [7, 9]},
    "QueueStore.PARKED": {"buckets": [3, 7, 11, 60]},
    "QueueStore.BURY": FAILED | {"attempts": 5, "first_failed_at": NOW},
    "QueueStore.COUNT_UNREAD": BUCKETS,
    "MendingStore.BUCKETS": {"most": 10_001},
    "MendingStore.TOTALS": {},
    "MendingStore.PARKED": CHOSEN | {"limit": 100},
    "MendingStore.COUNT_PARKED": CHOSEN,
    "MendingStore.PARKED_AFTER": CHOSEN | {"after_bucket": 3, "after_key": "k", "limit": 500},
    "MendingStore.DEAD": CHOSEN | {"limit": 100},
    "MendingStore.COUNT_DEAD": CHOSEN,
    "MendingStore.DEAD_AFTER": CHOSEN | {"after": 50_000, "ceiling": 90_000, "limit": 500},
    "MendingStore.HISTORY": CHOSEN | {"limit": 100},
    "ParkedStore.RETRY": AUTHOR | PARKED_KEYS,
    "ParkedStore.SKIP": AUTHOR | PARKED_KEYS | {"reason": "skipped"},
    "RedriveStore.LOCK": {"lock": 1},
    "RedriveStore.REDRIVE": AUTHOR | REDRIVEN,
    "RedriveStore.JUDGE": {
        "numbers": SOME,
        "event_ids": [UUID(int=number) for number in SOME],
        "keys": ["k"] * 500,
        "buckets": [number % 64 for number in SOME],
        "first_failed_ats": [NOW] * 500,
    },
    "TrimStore.TRIM_DEAD": {"age_seconds": 3600.0, "rows": 1000},
    "TrimStore.TRIM_HISTORY": {"age_seconds": 3600.0, "rows": 1000},
    "notifyd.store.INGEST": INGESTED,
    "notifyd.store.TRIM_INBOX": {"age_seconds": 3600.0, "rows": 500},
    "notifyd.store.TRIM_DONE": {"age_seconds": 3600.0, "rows": 500},
}
LIST_NAME = re.compile(r"ticketd\.pages\.PAGES\[\((\w+), (\w+), (\w+)\)\]")


def samples(name: str) -> Parameters | None:
    """The sample values of a query, None when nobody has given any."""
    listing = LIST_NAME.fullmatch(name)
    if listing is None:
        return SAMPLES.get(name)
    filters = ("in_progress", "urgent", "person 7")
    given = [value for value, flag in zip(filters, listing.groups(), strict=True) if flag == "True"]
    return (*given, LOWEST, HIGHEST, 51)


def on_tables(query: Query) -> list[Query]:
    """A template of the queue becomes a query on each of the two sets of tables."""
    if "{queue}" not in query.text:
        return [query]
    keeps_done = "{queue}_done" in query.text
    tables = [t for t in (OUTBOX, DELIVERY) if t.keeps_done or not keeps_done]
    return [_rendered(query, one) for one in tables]


def _rendered(query: Query, tables: QueueTables) -> Query:
    return Query(name=f"{query.name}@{tables.name}", text=render(query.text, tables))


FOUND = daemon_queries()
QUERIES = [
    query for found in FOUND if not NOT_EXPLAINED.match(found.text) for query in on_tables(found)
]

TICKET_ID = "(lpad(to_hex(1700000000000 + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))"
EVENT_ROW = f"n, {TICKET_ID}::uuid, 1, lpad(to_hex(n), 32, '0')::uuid, 'ticket.created', '{{}}'"
FILL = f"""
INSERT INTO tickets SELECT {TICKET_ID}::uuid, 'title ' || n, repeat('text ', 20),
    CASE WHEN n % 89 = 0 THEN 'in_progress' ELSE 'closed' END,
    CASE WHEN n % 97 = 0 THEN 'urgent' ELSE 'normal' END, 'person ' || n % 900,
    CASE WHEN n % 3 = 0 THEN NULL ELSE 'person ' || n % 401 END, 1,
    now() - n * interval '1 second', now(), NULL
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO attachments SELECT lpad(to_hex(n), 32, '0')::uuid, {TICKET_ID}::uuid, 1,
    CASE WHEN n % 83 = 0 THEN 'pending' ELSE 'ready' END, 'name', 'text/plain', 5,
    decode(repeat('00', 32), 'hex'), now(), now(), now(),
    CASE WHEN n % 83 = 0 THEN now() END
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT n % 64, {EVENT_ROW.removeprefix("n, ")}, repeat('text ', 20)
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO delivery
    (bucket, receiver, aggregate_id, sequence, event_id, event_type, headers, payload)
SELECT n % 64, 'webhook', {EVENT_ROW.removeprefix("n, ")}, repeat('text ', 20)
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO outbox_parked (bucket, key, first_id, attempts, next_at, error)
SELECT n % 64, 'key ' || n, n, 1, now(), 'refused' FROM generate_series(1, {PARKED_ROWS}) AS n;
INSERT INTO delivery_parked SELECT * FROM outbox_parked;
INSERT INTO outbox_dead SELECT n % 64, {EVENT_ROW}, repeat('text ', 20), now(), 'refused', 5, now()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO delivery_dead
SELECT n % 64, n, 'webhook', {EVENT_ROW.removeprefix("n, ")}, '', now(), 'refused', 5, now()
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO inbox SELECT lpad(to_hex(n), 32, '0')::uuid, 'tickets.events', 0, n,
    now() - n * interval '1 second'
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO idempotency_key SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n), 32, '0')::uuid,
    {TICKET_ID}::uuid, NULL, now() - n * interval '1 second'
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO mending_history
    (queue, act, operator, selection, event_id, key, error, first_failed_at, outcome)
SELECT (ARRAY['outbox', 'delivery'])[1 + n % 2], 'redrive', 'root@host', '--all',
    lpad(to_hex(n), 32, '0')::uuid, 'key ' || n, 'refused', now(), 'queued again'
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO delivery_done SELECT event_id, 'webhook', {TICKET_ID}::uuid, 1, received_at
FROM inbox, LATERAL (SELECT "offset" AS n) AS number;
"""


@pytest.fixture(scope="module")
def big(shared_postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database whose tables have 100,000 rows each."""
    with psycopg.connect(shared_postgres.url("postgres"), autocommit=True) as server:
        server.execute("CREATE DATABASE explained TEMPLATE migrated")
        with psycopg.connect(shared_postgres.url("explained"), autocommit=True) as connection:
            connection.execute(FILL.encode())
            connection.execute("VACUUM ANALYZE")
            yield connection
        server.execute("DROP DATABASE explained WITH (FORCE)")


def sample_plan(connection: psycopg.Connection[Any], query: Query) -> dict[str, Any]:
    parameters = samples(query.name.partition("@")[0])
    statement = f"EXPLAIN (FORMAT JSON) {query.text}".encode()
    if "$1" in query.text:
        return plan_of(psycopg.RawCursor(connection).execute(statement, parameters))
    return plan_of(connection.execute(statement, parameters or None))


def generic_plan(connection: psycopg.Connection[Any], query: Query) -> dict[str, Any]:
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[1] or f"unnamed {len(numbers)}"
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    text = re.sub(r"%\((\w+)\)[sb]|%[sb]", number, query.text)
    return plan_of(connection.execute(f"EXPLAIN (FORMAT JSON, GENERIC_PLAN) {text}".encode()))


def plan_of(cursor: psycopg.Cursor[Any]) -> dict[str, Any]:
    (row,) = cursor.fetchall()
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def whole_scans(plan: dict[str, Any], query: Query) -> list[str]:
    """The tables that a plan reads from end to end, without those that may be."""
    found = []
    for node in nodes(plan):
        table = node.get("Relation Name", "")
        kind = (query.name.partition("@")[0], table.rpartition("_")[2])
        if node["Node Type"] == "Seq Scan" and table not in SMALL_TABLES:
            if kind in WHOLE_TABLE:
                print(f"{query.name} reads all of {table}: it {WHOLE_TABLE[kind]}")
            else:
                found.append(table)
    return found


@pytest.mark.parametrize("query", FOUND, ids=lambda query: query.name)
def test_every_query_has_sample_values(query: Query) -> None:
    if not NOT_EXPLAINED.match(query.text):
        assert samples(query.name) is not None, f"add values for {query.name} to SAMPLES"


def test_sample_values_belong_to_queries_that_exist() -> None:
    assert set(SAMPLES) <= {query.name for query in FOUND}
    assert {name for name, _ in WHOLE_TABLE} <= {query.name for query in FOUND}


def test_sql_stands_in_constants_so_that_it_is_found_here() -> None:
    nameless = [place for place in nameless_sql() if place.partition(":")[0] not in NAMELESS]
    assert nameless == [], "make it an upper-case constant of its module or class"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_query_reads_no_big_table_from_end_to_end(
    query: Query, big: psycopg.Connection[Any]
) -> None:
    for kind, explain in (("sample", sample_plan), ("generic", generic_plan)):
        plan = explain(big, query)
        assert whole_scans(plan, query) == [], f"in the {kind} plan"


@pytest.mark.parametrize(
    "query", [query for query in QUERIES if LIST_NAME.fullmatch(query.name)], ids=lambda q: q.name
)
def test_list_has_an_index_on_exactly_its_filters_in_its_own_order(
    query: Query, big: psycopg.Connection[Any]
) -> None:
    with big.transaction(force_rollback=True):
        # Of rare values the planner would rather sort the few rows that it finds.
        big.execute("SET LOCAL enable_sort = off")
        big.execute("SET LOCAL enable_bitmapscan = off")
        found = list(nodes(sample_plan(big, query)))
    assert [node["Node Type"] for node in found] == ["Limit", "Index Scan"]
    assert "Filter" not in found[1]


def test_scan_of_a_big_table_would_be_seen(big: psycopg.Connection[Any]) -> None:
    query = Query(name="none", text="SELECT count(*) FROM tickets WHERE title = 'x'")
    assert whole_scans(sample_plan(big, query), query) == ["tickets"]
