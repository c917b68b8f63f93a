"""What is old is forgotten in small batches, beside others who hold the same rows."""

import asyncio
import io
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import pairwise

import psycopg
import pytest

from servicedesk.database import create_pool
from servicedesk.logs import Log
from servicedesk.queue.statements import Pool, Statements
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from servicedesk.queue.trim_store import TrimStore
from servicedesk.trimming import RESTS, Chore, Trimming
from tests.support.processes import Daemon, wait_until

StartDaemon = Callable[[str, Mapping[str, str]], Daemon]

HOUR = 3600.0
DEAD = """
INSERT INTO {queue}_dead (bucket, id, {column} aggregate_id, sequence, event_id, event_type,
                          headers, payload, created_at, error, attempts, first_failed_at, failed_at)
SELECT 0, n, {value} gen_random_uuid(), 1, gen_random_uuid(), 'ticket.created', '{{}}', '{{}}',
       now(), 'Bad: worse', 1, now(), now() - make_interval(hours => 9 - n)
FROM generate_series(0, 9) AS n
"""
HISTORY = """
INSERT INTO mending_history
    (queue, at, act, operator, selection, key, error, first_failed_at, outcome)
SELECT (ARRAY['outbox', 'delivery'])[1 + n % 2], now() - make_interval(hours => 9 - n / 2), 'skip',
       'anna', '--all', n::text, 'Bad: worse', now(), 'moved to dead'
FROM generate_series(0, 19) AS n
"""


def run(url: str, act: Callable[[Pool], Awaitable[object]]) -> object:
    async def main() -> object:
        pool = create_pool(url, application="test", minimum=1, maximum=2, wait_seconds=5)
        async with pool:
            return await act(pool)

    return asyncio.run(main())


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(DEAD.format(queue="outbox", column="", value="").encode())
        connection.execute(
            DEAD.format(queue="delivery", column="receiver,", value="'log',").encode()
        )
        connection.execute(HISTORY)


@pytest.mark.parametrize("tables", [OUTBOX, DELIVERY], ids=lambda tables: str(tables.name))
def test_trimming_takes_the_old_of_its_queue_and_only_so_many(
    database_url: str, tables: QueueTables
) -> None:
    fill(database_url)

    async def act(pool: Pool) -> list[int]:
        store = TrimStore(Statements(pool, tables))
        age = 4.5 * HOUR
        dead = [await store.trim_dead(age, 3) for _ in range(3)]
        return dead + [await store.trim_history(age, 3) for _ in range(3)]

    assert run(database_url, act) == [3, 2, 0, 3, 2, 0]
    assert rows(database_url, f"SELECT id FROM {tables.name}_dead ORDER BY id") == [
        (5,), (6,), (7,), (8,), (9,),
    ]  # fmt: skip
    kept = "SELECT queue, count(*), min(at) > now() - interval '5 hours' FROM mending_history"
    other = OUTBOX if tables is DELIVERY else DELIVERY
    assert sorted(rows(database_url, f"{kept} GROUP BY queue")) == sorted(
        [(tables.name, 5, True), (other.name, 10, False)]
    )


def test_dead_rows_that_somebody_holds_are_passed_over(database_url: str) -> None:
    fill(database_url)

    async def act(pool: Pool) -> int:
        return await TrimStore(Statements(pool, OUTBOX, seconds=5)).trim_dead(0.0, 100)

    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM outbox_dead WHERE id < 4 FOR UPDATE")
        assert run(database_url, act) == 6


def test_everything_old_goes_in_batches_with_pauses_and_one_log_line(database_url: str) -> None:
    fill(database_url)
    lines = io.StringIO()
    batches: list[tuple[str, int]] = []

    async def act(pool: Pool) -> None:
        store = TrimStore(Statements(pool, OUTBOX))

        async def dead(age_seconds: float, most: int) -> int:
            batches.append(("dead", await store.trim_dead(age_seconds, most)))
            return batches[-1][1]

        async def history(age_seconds: float, most: int) -> int:
            batches.append(("history", await store.trim_history(age_seconds, most)))
            return batches[-1][1]

        trimming = Trimming(
            chores=[
                Chore(name="dead", age_seconds=2.5 * HOUR, forget=dead),
                Chore(name="history", age_seconds=8.5 * HOUR, forget=history),
            ],
            log=Log("test", stream=lines),
            rows=3,
            pause_seconds=0.001,
        )
        await trimming.trim()
        await trimming.trim()

    run(database_url, act)
    assert batches == [
        ("dead", 3), ("dead", 3), ("dead", 1), ("history", 1), ("dead", 0), ("history", 0),
    ]  # fmt: skip
    [line] = lines.getvalue().splitlines()
    assert '"event":"trimmed"' in line
    assert '"dead":7,"history":1' in line


def test_pause_is_several_times_as_long_as_the_batch_before_it(database_url: str) -> None:
    spans: list[tuple[float, float]] = []

    async def act(pool: Pool) -> None:
        async def forget(age_seconds: float, most: int) -> int:
            started = asyncio.get_running_loop().time()
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_sleep(0.03)")
            spans.append((started, asyncio.get_running_loop().time()))
            return most if len(spans) < 4 else 0

        chores = [Chore(name="dead", age_seconds=HOUR, forget=forget)]
        await Trimming(chores=chores, log=Log("test", stream=io.StringIO())).trim()

    run(database_url, act)
    for (began, ended), (next_began, _) in pairwise(spans):
        assert next_began - ended >= RESTS * (ended - began)


def test_failure_postpones_trimming_and_ends_nothing(database_url: str) -> None:
    lines = io.StringIO()

    async def act(pool: Pool) -> None:
        tried = asyncio.Event()
        done = asyncio.Event()

        async def forget(age_seconds: float, most: int) -> int:
            if not tried.is_set():
                tried.set()
                raise psycopg.errors.UndefinedTable("no such table")
            done.set()
            return 0

        trimming = Trimming(
            chores=[Chore(name="dead", age_seconds=HOUR, forget=forget)],
            log=Log("test", stream=lines),
            every_seconds=0.001,
        )
        task = asyncio.create_task(trimming.run())
        async with asyncio.timeout(10):
            await done.wait()
        task.cancel()

    run(database_url, act)
    assert lines.getvalue().count("trimming_postponed") == 1


def test_both_daemons_trim_their_own_queue(
    start_daemon: StartDaemon, database_url: str, kafka_brokers: str, unique_name: str
) -> None:
    fill(database_url)
    settings = {
        "DATABASE_URL": database_url,
        "KAFKA_BROKERS": kafka_brokers,
        "KAFKA_TOPIC": unique_name,
        "KAFKA_DLQ_TOPIC": f"{unique_name}.dlq",
        "KAFKA_GROUP_ID": unique_name,
    }
    for module, name, queue in (("relayd", "RELAYD", "outbox"), ("notifyd", "NOTIFYD", "delivery")):
        keep = {f"{name}_DEAD_RETENTION": "3h", f"{name}_HISTORY_RETENTION": "5h"}
        daemon = start_daemon(module, settings | keep)
        [line] = wait_until(partial(daemon.events, "trimmed"), 20, "trimming")
        assert (line["dead"], line["history"]) == (7, 5)
        [(dead,)] = rows(database_url, f"SELECT count(*) FROM {queue}_dead")
        [(history,)] = rows(
            database_url, f"SELECT count(*) FROM mending_history WHERE queue = '{queue}'"
        )
        assert (dead, history) == (3, 5)
        assert daemon.terminate() == 0
