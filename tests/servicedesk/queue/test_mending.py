"""The mending commands on a real database; tests/notifyd/test_process.py runs them as processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from servicedesk.bucket import bucket_of
from servicedesk.queue.mending import mend
from servicedesk.queue.row import queue_key
from servicedesk.queue.tables import DELIVERY, OUTBOX, QueueTables
from tests.support.processes import wait_until

Connection = psycopg.Connection[tuple[object, ...]]
OCCURRED = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


class Shop:
    """A database to mend, and the command line to do it with."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self.connection = connection

    def mend(self, *arguments: str, tables: QueueTables = OUTBOX) -> int:
        return mend(arguments, program="test", tables=tables, database_url=lambda: self.url)

    def queue(self, ticket: UUID, sequence: int) -> tuple[int, UUID]:
        """Insert an outbox row; returns its id and its event's."""
        event_id, key = uuid4(), queue_key(ticket)
        found = self.connection.execute(
            "INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers,"
            " payload, created_at) VALUES (%s, %s, %s, %s, 'ticket.updated', '{}', '{}', %s)"
            " RETURNING id",
            (bucket_of(key), ticket, sequence, event_id, OCCURRED),
        ).fetchone()
        assert found is not None
        return int(str(found[0])), event_id

    def park(self, ticket: UUID, first_id: int, error: str = "Bad: worse") -> str:
        key = queue_key(ticket)
        self.connection.execute(
            "INSERT INTO outbox_parked (bucket, key, first_id, attempts, next_at, error)"
            " VALUES (%s, %s, %s, 3, now() + interval '1 hour', %s)",
            (bucket_of(key), key, first_id, error),
        )
        return key

    def bury(self, ticket: UUID, sequence: int, receiver: str = "") -> UUID:
        """A dead row, as if given up."""
        queue = "delivery" if receiver else "outbox"
        event_id, key = uuid4(), queue_key(ticket, receiver)
        column, value = ("receiver,", "%(receiver)s,") if receiver else ("", "")
        self.connection.execute(
            f"INSERT INTO {queue}_dead (bucket, id, {column} aggregate_id, sequence, event_id,"
            " event_type, headers, payload, created_at, error, attempts, first_failed_at)"
            f" VALUES (%(bucket)s, %(id)s, {value} %(ticket)s, %(sequence)s, %(event_id)s,"
            " 'ticket.updated', '{\"a\": 1}', '{\"b\": 2}', %(at)s, 'Bad: worse', 10, %(at)s)",
            {
                "bucket": bucket_of(key),
                "id": 1_000_000 + sequence,
                "receiver": receiver,
                "ticket": ticket,
                "sequence": sequence,
                "event_id": event_id,
                "at": OCCURRED,
            },
        )
        return event_id

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return self.connection.execute(query.encode()).fetchall()


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield Shop(database_url, connection)


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
    assert capsys.readouterr().out == f"due now: {key}\n"
    assert shop.rows("SELECT key FROM outbox_parked WHERE next_at <= now()") == [(key,)]
    assert shop.mend("retry", "--all") == 0
    assert other in capsys.readouterr().out
    assert len(shop.rows("SELECT key FROM outbox_parked WHERE next_at <= now()")) == 2


def test_skip_moves_the_failing_row_to_the_dead_and_frees_the_key(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    first, event_id = shop.queue(ticket, 1)
    second, _ = shop.queue(ticket, 2)
    key = shop.park(ticket, first)
    assert shop.mend("skip", key) == 0
    assert str(event_id) in capsys.readouterr().out
    assert shop.rows("SELECT id FROM outbox") == [(second,)]
    assert shop.rows("SELECT key FROM outbox_parked") == []
    assert shop.rows("SELECT id, event_id, error, attempts, created_at FROM outbox_dead") == [
        (first, event_id, "skipped by operator; last error: Bad: worse", 3, OCCURRED)
    ]


def test_skip_frees_a_key_whose_row_is_gone(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    key = shop.park(uuid4(), 12345)
    assert shop.mend("skip", key) == 0
    assert "gone already" in capsys.readouterr().out
    assert shop.rows("SELECT key FROM outbox_parked") == []
    assert shop.rows("SELECT id FROM outbox_dead") == []


def test_redrive_puts_a_dead_row_back_as_the_same_event(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    newer, _ = shop.queue(ticket, 5)
    event_id, other = shop.bury(ticket, 4), shop.bury(ticket, 3)
    assert shop.mend("redrive", str(event_id)) == 0
    assert str(event_id) in capsys.readouterr().out
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
    assert len(capsys.readouterr().out.splitlines()) == 40
    assert shop.rows("SELECT sequence FROM outbox ORDER BY id") == [(n,) for n in range(1, 41)]
    assert shop.rows("SELECT id FROM outbox_dead") == []


def test_dry_run_changes_nothing(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    event_id = shop.bury(uuid4(), 1)
    assert shop.mend("redrive", "--all", "--dry-run") == 0
    assert shop.mend("redrive", str(event_id), "--dry-run") == 0
    assert capsys.readouterr().out.count(f"would redrive: event {event_id}") == 2
    assert shop.rows("SELECT count(*) FROM outbox_dead") == [(1,)]
    assert shop.rows("SELECT count(*) FROM outbox") == [(0,)]


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
    assert capsys.readouterr().out.startswith(("no ", "not "))
    assert shop.rows("SELECT count(*) FROM outbox") == [(0,)]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("mend",),
        ("retry",),
        ("retry", "a", "--all"),
        ("skip",),
        ("redrive",),
        ("redrive", "not-a-uuid"),
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
