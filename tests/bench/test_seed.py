"""The rows that every contestant starts from."""

import zlib
from itertools import pairwise

import psycopg

from bench.seed import COLUMNS, description_of, restore, seed_rows
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


def test_description_is_as_long_as_it_was_asked_for_and_compresses_little() -> None:
    text = description_of(8_192).encode()
    assert 8_192 <= len(text) + 1 < 8_250
    assert len(zlib.compress(text)) > len(text) / 4
