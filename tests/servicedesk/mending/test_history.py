"""Every act is noted in its own transaction: who, when, which rows, and what became of them."""

import io
from uuid import uuid4

import psycopg
import pytest

from servicedesk.mending import acts
from servicedesk.mending.act_store import Author
from servicedesk.mending.parked_store import ParkedStore
from servicedesk.mending.progress import Progress
from servicedesk.mending.selection import Selection
from servicedesk.mending.store import MendingStore
from servicedesk.queue.tables import DELIVERY, OUTBOX
from tests.servicedesk.mending.shop import OCCURRED, Shop


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_each_act_notes_each_row_and_its_outcome(shop: Shop) -> None:
    parked, gone = uuid4(), uuid4()
    row_id, event_id = shop.queue(parked, 1)
    key, other = shop.park(parked, row_id), shop.park(gone, 12345, "Worse: still")
    dead = shop.bury(uuid4(), 2)
    assert shop.mend("retry", key, "--by", "anna") == 0
    assert shop.mend("skip", key, other, "--by=boris") == 0
    assert shop.mend("redrive", str(dead), "--by", "clara") == 0
    noted = shop.rows(
        "SELECT queue, act, operator, selection, event_id, key, error, outcome"
        " FROM mending_history ORDER BY id"
    )
    assert noted[0] == (
        "outbox", "retry", "anna", key, event_id, key, "Bad: worse", "due now",
    )  # fmt: skip
    assert sorted(noted[1:3], key=str) == sorted(
        [
            ("outbox", "skip", "boris", f"{key} {other}", event_id, key, "Bad: worse",
             "moved to dead"),
            ("outbox", "skip", "boris", f"{key} {other}", None, other, "Worse: still",
             "key freed, row gone"),
        ],
        key=str,
    )  # fmt: skip
    assert noted[3][1:3] + noted[3][4:5] + noted[3][7:] == (
        "redrive", "clara", dead, "queued again",
    )  # fmt: skip
    [(since, topic)] = shop.rows(
        "SELECT first_failed_at, topic FROM mending_history WHERE act = 'redrive'"
    )
    assert (since, topic) == (OCCURRED, None)


def test_author_is_the_user_and_the_host_unless_named(shop: Shop) -> None:
    shop.park(uuid4(), 1)
    assert shop.mend("retry", "--all") == 0
    [(operator, selection)] = shop.rows("SELECT operator, selection FROM mending_history")
    name, _, host = str(operator).partition("@")
    assert name
    assert host
    assert selection == "--all"


def test_act_that_fails_leaves_no_note_and_a_note_that_fails_leaves_no_act(shop: Shop) -> None:
    event_id = shop.bury(uuid4(), 1)
    key = shop.park(uuid4(), 1)
    shop.connection.execute(
        "ALTER TABLE mending_history ADD CONSTRAINT never CHECK (operator <> 'nobody')"
    )
    assert shop.mend("redrive", str(event_id), "--by", "nobody") == 1
    assert shop.mend("skip", key, "--by", "nobody") == 1
    assert shop.mend("retry", key, "--by", "nobody") == 1
    assert (shop.count("outbox"), shop.count("outbox_dead")) == (0, 1)
    assert shop.rows("SELECT count(*) FROM outbox_parked WHERE next_at > now()") == [(1,)]
    shop.connection.execute("ALTER TABLE outbox ADD CONSTRAINT full_up CHECK (sequence <> 1)")
    assert shop.mend("redrive", str(event_id)) == 1
    assert shop.count("mending_history") == 0


def test_history_lists_the_newest_first_and_is_selected_like_the_rest(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shop.bury(uuid4(), 1, error="Bad: я\x1b[31m"), shop.bury(uuid4(), 2)
    shop.bury(uuid4(), 3, receiver="log")
    shop.mend("redrive", str(first))
    shop.mend("redrive", str(second))
    shop.mend("redrive", "--all", tables=DELIVERY)
    capsys.readouterr()
    assert shop.mend("history") == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split()[:4] == ["AT", "ACT", "BY", "EVENT"]
    assert [str(second) in lines[1], str(first) in lines[2], len(lines)] == [True, True, 3]
    assert "\x1b" not in printed
    assert shop.mend("history", "--id", str(first), "--since", "1h") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert shop.mend("history", "--limit", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert shop.mend("history", "--until", "1h") == 0
    assert capsys.readouterr().out == "no mended rows are selected\n"


def test_work_is_done_in_batches_and_what_an_interrupt_leaves_is_done_by_the_next_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acts, "BATCH_ROWS", 3)
    ticket = uuid4()
    for sequence in range(1, 9):
        shop.bury(ticket, sequence)
    # The third batch meets a row that the database refuses, as an interrupt would cut it short.
    shop.connection.execute("ALTER TABLE outbox ADD CONSTRAINT stop CHECK (sequence <> 8)")
    assert shop.mend("redrive", "--all") == 1
    assert "error: " in capsys.readouterr().err
    assert (shop.count("outbox"), shop.count("outbox_dead")) == (6, 2)
    assert shop.count("mending_history") == 6
    shop.connection.execute("ALTER TABLE outbox DROP CONSTRAINT stop")
    assert shop.mend("redrive", "--all") == 0
    assert shop.rows("SELECT sequence FROM outbox ORDER BY id") == [(n,) for n in range(1, 9)]
    assert shop.count("mending_history") == 8


def test_rows_that_die_again_during_a_run_are_left_to_the_next_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acts, "BATCH_ROWS", 2)
    for sequence in range(1, 6):
        shop.bury(uuid4(), sequence)
    # A daemon that gives up at once. New ids are above those of the dead rows, as in life.
    shop.connection.execute("ALTER TABLE outbox ALTER COLUMN id SET START 2000000 RESTART")
    shop.connection.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO outbox_dead SELECT NEW.*, 'Bad: again', 1, now(), now(); RETURN NULL; END $$"
    )
    shop.connection.execute(
        "CREATE TRIGGER die BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION die()"
    )
    assert shop.mend("redrive", "--all") == 0
    assert capsys.readouterr().out == "redriven: 5 of 5 dead rows\n"
    assert shop.count("outbox_dead") == 5


def test_many_parked_keys_are_skipped_in_batches_each_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acts, "BATCH_ROWS", 4)
    for _ in range(10):
        ticket = uuid4()
        row_id, _ = shop.queue(ticket, 1)
        shop.queue(ticket, 2)
        shop.park(ticket, row_id)
    assert shop.mend("skip", "--all") == 0
    assert capsys.readouterr().out == "skipped: 10 of 10 parked keys\n"
    assert shop.rows("SELECT sequence, count(*) FROM outbox GROUP BY 1") == [(2, 10)]
    assert (shop.count("outbox_dead"), shop.count("outbox_parked")) == (10, 0)


def test_key_that_waits_for_another_row_by_now_is_left_alone(shop: Shop) -> None:
    ticket = uuid4()
    first, _ = shop.queue(ticket, 1)
    second, _ = shop.queue(ticket, 2)
    key = shop.park(ticket, first)
    with psycopg.connect(shop.url, autocommit=True) as connection:
        keys = MendingStore(connection, OUTBOX).parked(Selection(), 10)
        shop.connection.execute("UPDATE outbox_parked SET first_id = %s", (second,))
        store = ParkedStore(connection, OUTBOX, Author(operator="o", selection="--all"))
        assert (store.retry(keys), store.skip(keys).keys) == (0, 0)
    assert shop.rows("SELECT key, first_id FROM outbox_parked") == [(key, second)]
    assert (shop.count("outbox"), shop.count("outbox_dead")) == (2, 0)


def test_terminal_sees_the_count_before_and_a_bar() -> None:
    terminal = Terminal()
    progress = Progress(terminal, "redrive")
    progress.begin(40, "dead rows selected")
    progress.advance(10)
    progress.advance(30)
    progress.end()
    shown = terminal.getvalue()
    assert shown.startswith("redrive: 40 dead rows selected\n\r[....")
    assert "] 10/40 25%" in shown
    assert shown.endswith("\r[" + "#" * 30 + "] 40/40 100%\n")


def test_dry_run_on_a_terminal_shows_the_count_without_a_bar() -> None:
    terminal = Terminal()
    progress = Progress(terminal, "skip", bar=False)
    progress.begin(2, "parked keys selected")
    progress.advance(2)
    progress.end()
    assert terminal.getvalue() == "skip: 2 parked keys selected\n"


def test_what_is_no_terminal_gets_nothing_but_the_final_count(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.bury(uuid4(), 1)
    assert shop.mend("redrive", "--all") == 0
    assert capsys.readouterr() == ("redriven: 1 of 1 dead rows\n", "")
