"""What the mending commands print: what matters first, and nothing to a reader who has gone."""

import os
import subprocess
import sys

import psycopg
import pytest

from servicedesk.mending.command import mend
from servicedesk.queue.tables import OUTBOX
from tests.servicedesk.queue.harness import insert, tickets
from tests.support.processes import PROJECT

OWNED = """
UPDATE outbox_bucket SET owner = 'host:1:ab', epoch = 1,
    lease_until = now() + CASE bucket WHEN 9 THEN -1 ELSE 1 END * interval '1 minute'
WHERE bucket <> 7
"""


def status(url: str) -> int:
    return mend(["status"], program="test", tables=OUTBOX, database_url=lambda: url)


def test_status_lists_only_buckets_that_need_a_look(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [ticket] = tickets(1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(OWNED)
        insert(connection, ticket, 1)
        connection.execute("UPDATE outbox SET bucket = 3")
        assert status(database_url) == 0
        lines = capsys.readouterr().out.splitlines()
        table = [line.split() for line in lines[lines.index("") + 1 :]]
        assert [(row[0], row[1], row[3]) for row in table[2:4]] == [
            ("7", "0", "free"),
            ("9", "0", "run"),
        ]
        assert (table[0][0], table[1][:2]) == ("BUCKET", ["3", "1"])
        assert lines[-1].startswith("idle: 61 of 64 buckets")
        connection.execute("DELETE FROM outbox")
        connection.execute("UPDATE outbox_bucket SET owner = 'a', lease_until = now() + '1 minute'")
    assert status(database_url) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("") + 1 :] == [
        "idle: 64 of 64 buckets, which have an owner and nothing pending"
    ]


def test_reader_who_has_gone_ends_a_command_quietly(database_url: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "relayd", "status"],
            env={"PATH": os.defpath, "DATABASE_URL": database_url},
            cwd=PROJECT,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_wrong_limit_is_told_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mend(["dead", "--limit", "x"], program="test", tables=OUTBOX, database_url=str)
    error = capsys.readouterr().err
    assert "'x' is not a whole number from 1 to 1000000" in error
    assert "_limit" not in error
