"""The mending commands on a real database; test_processes.py runs them as processes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from servicedesk.bucket import bucket_of
from servicedesk.mending.command import mend
from servicedesk.queue.row import queue_key
from servicedesk.queue.tables import DELIVERY, OUTBOX
from tests.servicedesk.mending.shop import OCCURRED, Shop
from tests.support.processes import wait_until


def test_status_tells_what_waits_and_who_drains(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    first, _ = shop.queue(ticket, 1)
    shop.queue(ticket, 2)
    shop.park(ticket, first)
    shop.bury(uuid4(), 1)
    bucket = bucket_of(queue_key(ticket))
    shop.connection.execute(
        "UPDATE outbox_bucket SET owner = 'host:1:ab', epoch = 7,"
        " lease_until = now() + interval '10 seconds' WHERE bucket = %s",
        (bucket,),
    )
    assert shop.mend("status") == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.rsplit(maxsplit=1) for line in lines[: lines.index("")])
    assert facts["pending"] == "2"
    assert facts["oldest pending"].endswith("d")
    assert (facts["parked keys"], facts["dead rows"], facts["live workers"]) == ("1", "1", "0")
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert len(table) == 1 + 64 + 1
    assert table[0] == ["BUCKET", "PENDING", "OLDEST", "LEASE", "EPOCH", "OWNER"]
    number, pending, _, lease, epoch, owner = table[1 + bucket]
    assert (number, pending, epoch, owner) == (str(bucket), "2", "7", "host:1:ab")
    assert 0 < float(lease.rstrip("s")) <= 10
    assert table[1 + (bucket + 1) % 64][1:] == ["0", "-", "free", "0", "-"]


def test_parked_lists_keys_on_one_line_each(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [shop.park(uuid4(), n, "Bad:\n\x1b[31mworse " + "я" * 500) for n in (1, 2, 3)]
    assert shop.mend("parked") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert {line.split()[0] for line in lines[1:]} == set(keys)
    assert "\x1b" not in "".join(lines)
    assert shop.mend("parked", "--limit", "2") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_lists_of_a_healthy_queue_say_so(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert (shop.mend("parked"), shop.mend("dead")) == (0, 0)
    assert capsys.readouterr().out == "no parked keys\nno dead rows\n"


def test_retry_makes_only_the_named_key_due(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    key, other = shop.park(uuid4(), 1), shop.park(uuid4(), 2)
    assert shop.mend("retry", key) == 0
    assert capsys.readouterr().out == "due now: 1 of 1 parked keys\n"
    assert shop.rows("SELECT key FROM outbox_parked WHERE next_at <= now()") == [(key,)]
    assert shop.mend("retry", "--all") == 0
    assert capsys.readouterr().out == "due now: 2 of 2 parked keys\n"
    due = shop.rows("SELECT key FROM outbox_parked WHERE next_at <= now()")
    assert {row[0] for row in due} == {key, other}


def test_skip_moves_the_failing_row_to_the_dead_and_frees_the_key(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    first, event_id = shop.queue(ticket, 1)
    second, _ = shop.queue(ticket, 2)
    key = shop.park(ticket, first)
    assert shop.mend("skip", key) == 0
    assert capsys.readouterr().out == "skipped: 1 of 1 parked keys\n"
    assert shop.rows("SELECT id FROM outbox") == [(second,)]
    assert shop.rows("SELECT key FROM outbox_parked") == []
    assert shop.rows("SELECT id, event_id, error, attempts, created_at FROM outbox_dead") == [
        (first, event_id, "skipped by operator; last error: Bad: worse", 3, OCCURRED)
    ]


def test_skip_frees_a_key_whose_row_is_gone(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    key = shop.park(uuid4(), 12345)
    assert shop.mend("skip", key) == 0
    assert capsys.readouterr().out.endswith("; the rows of 1 were gone already\n")
    assert shop.rows("SELECT key FROM outbox_parked") == []
    assert shop.rows("SELECT id FROM outbox_dead") == []


def test_redrive_puts_a_dead_row_back_as_the_same_event(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    newer, _ = shop.queue(ticket, 5)
    event_id, other = shop.bury(ticket, 4), shop.bury(ticket, 3)
    assert shop.mend("redrive", str(event_id)) == 0
    assert capsys.readouterr().out == "redriven: 1 of 1 dead rows\n"
    [row] = shop.rows(
        "SELECT id, bucket, aggregate_id, sequence, event_type, headers, payload, created_at"
        f" FROM outbox WHERE event_id = '{event_id}'"
    )
    assert int(str(row[0])) > newer
    assert row[1:] == (
        bucket_of(queue_key(ticket)), ticket, 4, "ticket.updated", '{"a": 1}', '{"b": 2}', OCCURRED,
    )  # fmt: skip
    assert shop.rows("SELECT event_id FROM outbox_dead") == [(other,)]


def test_redrive_of_all_keeps_the_order_of_each_key(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    for sequence in range(1, 41):
        shop.bury(ticket, sequence)
    assert shop.mend("redrive", "--all") == 0
    assert capsys.readouterr().out == "redriven: 40 of 40 dead rows\n"
    assert shop.rows("SELECT sequence FROM outbox ORDER BY id") == [(n,) for n in range(1, 41)]
    assert shop.rows("SELECT id FROM outbox_dead") == []


def test_deliveries_are_mended_by_receiver_and_ticket(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    event_id = shop.bury(ticket, 1, receiver="webhook")
    assert shop.mend("dead", tables=DELIVERY) == 0
    assert f"webhook/{ticket}" in capsys.readouterr().out
    assert shop.mend("redrive", str(event_id), tables=DELIVERY) == 0
    assert shop.rows("SELECT receiver, aggregate_id, event_id FROM delivery") == [
        ("webhook", ticket, event_id)
    ]
    assert shop.mend("status", tables=DELIVERY) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry", str(uuid4())),
        ("retry", "--all"),
        ("skip", "x'; DROP TABLE outbox; --"),
        ("redrive", str(uuid4())),
        ("redrive", "--all"),
    ],
)
def test_nothing_found_is_exit_code_1(
    shop: Shop, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.mend(*arguments) == 1
    assert capsys.readouterr().out.startswith(("no dead rows", "no parked keys"))
    assert shop.rows("SELECT count(*) FROM outbox") == [(0,)]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("mend",),
        ("retry",),
        ("retry", "a", "--all"),
        ("retry", "--dry-run"),
        ("skip",),
        ("skip", "a", "--all"),
        ("redrive",),
        ("redrive", "--by", "anna"),
        ("redrive", "not-a-uuid"),
        ("redrive", "--since", "yesterday"),
        ("redrive", "--since", "1h", "--until", "2h"),
        ("dead", "--all"),
        ("dead", "--id", "1"),
        ("parked", "--error", ""),
        ("parked", "--key", "\udcff"),
        ("history", "--by", "anna"),
        ("parked", "--limit", "0"),
        ("dead", "--limit", "many"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_the_database_is_asked(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    def never() -> str:
        raise AssertionError("asked for the database")

    with pytest.raises(SystemExit) as ended:
        mend(arguments, program="test", tables=OUTBOX, database_url=never)
    assert ended.value.code == 2
    assert "usage: test" in capsys.readouterr().err


def test_database_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://u:secret@127.0.0.1:1/db"
    assert mend(["status"], program="test", tables=OUTBOX, database_url=lambda: url) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "secret" not in error


def test_database_without_tables_is_told_how_to_get_them(
    empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        mend(["dead"], program="test", tables=OUTBOX, database_url=lambda: empty_database_url) == 1
    )
    assert "python -m servicedesk.migrate" in capsys.readouterr().err


def test_redrive_of_a_row_that_somebody_else_just_redrives_changes_nothing(shop: Shop) -> None:
    event_id = shop.bury(uuid4(), 1)
    waiting = (
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    with ThreadPoolExecutor() as pool, psycopg.connect(shop.url) as other:
        other.execute("DELETE FROM outbox_dead WHERE event_id = %s", (event_id,))
        second = pool.submit(shop.mend, "redrive", str(event_id))
        wait_until(lambda: shop.rows(waiting), 10, "redrive that waits for the row")
        other.commit()
        assert second.result() == 1
    assert shop.rows("SELECT count(*) FROM outbox") == [(0,)]


def test_age_of_a_queue_grows_with_its_oldest_row(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.queue(uuid4(), 1)
    shop.connection.execute(
        "UPDATE outbox SET created_at = %s", (datetime.now(UTC) - timedelta(minutes=30),)
    )
    assert shop.mend("status") == 0
    assert "30m" in capsys.readouterr().out
