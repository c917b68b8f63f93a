"""The rows that every contestant starts from."""

from itertools import pairwise

import psycopg

from bench.seed import COLUMNS, restore, seed_rows
from ticketd.identifiers import moment_of


def test_seed_is_the_same_at_every_call_and_in_the_order_of_ids() -> None:
    first, second = list(seed_rows(200)), list(seed_rows(200))
    assert first == second
    ids = [row[0] for row in first]
    assert all(above < below for above, below in pairwise(ids))
    assert all(moment_of(row[0]) == row[8] and row[0].version == 7 for row in first)


def test_restore_brings_back_exactly_the_seed(database_url: str) -> None:
    rows = list(seed_rows(50))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_seed (LIKE tickets)")
        with connection.cursor().copy(f"COPY bench_seed ({COLUMNS}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        restore(database_url)
        connection.execute("UPDATE tickets SET title = 'другое'")
        restore(database_url)
        found = connection.execute(f"SELECT {COLUMNS} FROM tickets ORDER BY id").fetchall()
        outbox = connection.execute("SELECT count(*) FROM outbox").fetchone()
    assert [row[0] for row in found] == [row[0] for row in rows]
    assert {row[1] for row in found} == {row[1] for row in rows}
    assert outbox == (0,)
