"""The queue's statements keep to the primary key, whatever the table was like when planned.

A queue is almost empty most of the time, and a session goes on with the plan that it made then.
"""

import asyncio
from typing import Any

import psycopg
import pytest

from servicedesk.database import create_pool
from servicedesk.queue.statements import render
from servicedesk.queue.store import QueueStore
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.test_explain import SAMPLES, nodes

ROW = "(bucket, {receiver_column} aggregate_id, sequence, event_id, event_type, headers, payload)"
FILL = f"INSERT INTO {{queue}} {ROW} SELECT n % 64, {{values}} FROM generate_series(1, 500) AS n"
VALUES = "gen_random_uuid(), 1, gen_random_uuid(), 'ticket.created', '', ''"
# What a table has been through when the plan is made.
PASTS = {
    "new": [],
    "emptied": ["VACUUM {queue}"],
    "drained": [FILL, "DELETE FROM {queue}", "VACUUM (TRUNCATE OFF) {queue}"],
}
TEMPLATES = {
    f"QueueStore.{name}": text
    for name, text in vars(QueueStore).items()
    if isinstance(text, str) and "%(" in text and " {queue}" in text
}
CASES = [
    (name, tables)
    for name, text in TEMPLATES.items()
    for tables in (OUTBOX, DELIVERY)
    if tables.keeps_done or "{queue}_done" not in text
]


def prepare(url: str, tables: QueueTables, past: list[str]) -> None:
    values = f"'log', {VALUES}" if tables.has_receiver else VALUES
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in past:
            connection.execute(render(statement.replace("{values}", values), tables).encode())


def kept_plans(url: str, tables: QueueTables) -> dict[str, dict[str, Any]]:
    """By statement, the plan that a session of the daemons keeps."""

    async def ask() -> dict[str, dict[str, Any]]:
        found = {}
        pool = create_pool(url, application="test", minimum=1, maximum=1, wait_seconds=5)
        async with pool, pool.connection() as connection:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            for name in [name for name, its in CASES if its is tables]:
                text = f"EXPLAIN (FORMAT JSON) {render(TEMPLATES[name], tables)}"
                cursor = await connection.execute(text.encode(), SAMPLES[name])
                (row,) = await cursor.fetchall()
                found[name] = row[0][0]["Plan"]  # type: ignore[index] # JSON
        return found

    return asyncio.run(ask())


def loose_scans(plan: dict[str, Any], tables: QueueTables) -> list[str]:
    """Ways to the queue's own table that are not bound to a bucket and an id, or to a place."""
    conditions = [
        (node["Node Type"], node.get("Index Cond", node.get("TID Cond", "none")))
        for node in nodes(plan)
        if node.get("Relation Name") == tables.name and node["Node Type"] != "ModifyTable"
    ]
    return [
        f"{kind}: {condition}"
        for kind, condition in conditions
        if not ("bucket" in condition and "id" in condition) and "ctid" not in condition
    ]


@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("tables", [OUTBOX, DELIVERY], ids=lambda tables: tables.name)
def test_plan_made_on_an_almost_empty_table_never_scans_it(
    database_url: str, tables: QueueTables, past: str
) -> None:
    prepare(database_url, tables, PASTS[past])
    plans = kept_plans(database_url, tables)
    assert len(plans) >= 6
    loose = {name: loose_scans(plan, tables) for name, plan in plans.items()}
    assert {name: found for name, found in loose.items() if found} == {}
