"""What is selected: by id, key, error class and time, all of which hold; and what is only said."""

import shlex
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from servicedesk.mending.selection import Selection, moment
from servicedesk.queue.tables import DELIVERY
from tests.servicedesk.mending.shop import Shop

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BIG = "MSG_SIZE_TOO_LARGE: Broker: Message size too large"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("500ms", NOW - timedelta(milliseconds=500)),
        ("2026-02-28T10:00:00Z", datetime(2026, 2, 28, 10, tzinfo=UTC)),
        ("2026-02-28t13:00:00.5+03:00", datetime(2026, 2, 28, 10, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_time_is_a_moment_or_how_long_ago(text: str, expected: datetime) -> None:
    assert moment(text, lambda: NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "-2h", "yesterday", "2026-02-28", "2026-02-28T10:00:00", "9" * 30 + "h"]
)
def test_what_is_no_time_is_told_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="2026-01-31T08:00:00Z"):
        moment(text, lambda: NOW)


def test_dead_rows_are_selected_by_everything_that_is_named_at_once(shop: Shop) -> None:
    ticket = uuid4()
    wanted = shop.bury(ticket, 1, error=BIG, minutes_ago=90)
    shop.bury(ticket, 2, error=BIG, minutes_ago=30)
    shop.bury(ticket, 3, error=BIG, minutes_ago=150)
    shop.bury(ticket, 4, error="MSG_SIZE_TOO_LARGE_INDEED: no", minutes_ago=90)
    other = shop.bury(uuid4(), 5, error=BIG, minutes_ago=90)
    narrow = ("--key", str(ticket), "--error", "MSG_SIZE_TOO_LARGE", "--since", "2h")
    assert shop.mend("redrive", *narrow, "--until", "1h", "--id", str(other)) == 1
    assert shop.count("outbox") == 0
    assert shop.mend("redrive", *narrow, "--until", "1h") == 0
    assert shop.rows("SELECT event_id FROM outbox") == [(wanted,)]
    assert shop.count("outbox_dead") == 4


def test_several_ids_and_keys_select_each_of_them(shop: Shop) -> None:
    first, second, third = (shop.bury(uuid4(), number) for number in (1, 2, 3))
    assert shop.mend("redrive", str(first), "--id", str(second)) == 0
    assert shop.rows("SELECT event_id FROM outbox_dead") == [(third,)]
    keys = [shop.park(uuid4(), number) for number in (1, 2, 3)]
    assert shop.mend("retry", keys[0], "--key", keys[1]) == 0
    due = shop.rows("SELECT key FROM outbox_parked WHERE next_at <= now()")
    assert {row[0] for row in due} == set(keys[:2])


def test_parked_keys_are_selected_by_the_event_they_wait_for_the_error_and_the_time(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    tickets = [uuid4() for _ in range(4)]
    rows = [shop.queue(ticket, 1) for ticket in tickets]
    keys = [
        shop.park(ticket, row_id, error, minutes_ago=minutes)
        for ticket, (row_id, _), error, minutes in zip(
            tickets, rows, [BIG, BIG, "Bad: worse", BIG], [10, 100, 10, 10], strict=True
        )
    ]
    narrow = ("--error", "MSG_SIZE_TOO_LARGE", "--since", "1h")
    assert shop.mend("parked", *narrow) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {keys[0], keys[3]}
    assert shop.mend("skip", *narrow, "--id", str(rows[3][1])) == 0
    assert shop.rows("SELECT event_id FROM outbox_dead") == [(rows[3][1],)]
    assert shop.count("outbox_parked") == 3


def test_lists_say_when_nothing_is_selected(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    shop.bury(uuid4(), 1)
    shop.park(uuid4(), 1)
    assert shop.mend("dead", "--error", "Worse") == 0
    assert shop.mend("parked", "--until", "1h") == 0
    assert shop.mend("redrive", "--error", "Ошибка 🖨️ שגיאה") == 1
    assert capsys.readouterr().out.splitlines() == [
        "no dead rows are selected",
        "no parked keys are selected",
        "no dead rows are selected",
    ]


def test_act_without_a_selection_says_what_it_takes(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        shop.mend("redrive", "--dry-run")
    assert "redrive takes --all alone, or what to select" in capsys.readouterr().err


@pytest.mark.parametrize("act", ["retry", "skip", "redrive"])
def test_dry_run_of_an_act_says_what_it_would_do_and_changes_nothing(
    shop: Shop, act: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = uuid4()
    row_id, event_id = shop.queue(ticket, 1)
    shop.park(ticket, row_id)
    shop.park(uuid4(), 12345)
    dead = shop.bury(uuid4(), 2)
    tables = ("outbox", "outbox_parked", "outbox_dead", "mending_history")
    before = [shop.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]
    assert shop.mend(act, "--all", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert [shop.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables] == before
    lines = printed.splitlines()
    assert all(line.startswith(f"would {act}: ") for line in lines[:-1])
    assert lines[-1].endswith("selected, and nothing was changed")
    told = {"retry": str(ticket), "skip": f"event {event_id} of", "redrive": f"event {dead}, "}
    assert told[act] in printed
    assert len(lines) == (2 if act == "redrive" else 3)


def test_deliveries_are_selected_by_receiver_and_ticket(shop: Shop) -> None:
    ticket = uuid4()
    shop.bury(ticket, 1, receiver="webhook:чат")
    shop.bury(ticket, 2, receiver="log")
    assert shop.mend("redrive", "--key", f"webhook:чат/{ticket}", tables=DELIVERY) == 0
    assert shop.rows("SELECT receiver, sequence FROM delivery") == [("webhook:чат", 1)]


def test_selection_holds_of_a_letter_what_it_holds_of_a_row() -> None:
    event_id = uuid4()
    letter = {"event_id": event_id, "key": "k", "error": BIG, "failed_at": NOW}
    minute = timedelta(minutes=1)
    for narrow, expected in [
        (Selection(), True),
        (Selection(event_ids=(uuid4(), event_id), keys=("k",), error="MSG_SIZE_TOO_LARGE"), True),
        (Selection(event_ids=(uuid4(),)), False),
        (Selection(keys=("l",)), False),
        (Selection(error=BIG), False),
        (Selection(since=NOW, until=NOW + minute), True),
        (Selection(since=NOW + minute), False),
        (Selection(until=NOW), False),
    ]:
        assert narrow.holds(**letter) is expected, narrow  # type: ignore[arg-type] # mixed values


def test_history_tells_the_selection_as_it_was_given(shop: Shop) -> None:
    shop.bury(uuid4(), 1, error="Ой ой: 🖨️")
    given = ("--error", "Ой ой", "--since", "2h")
    assert shop.mend("redrive", "--by", "Анна", *given) == 0
    assert shop.rows("SELECT operator, selection FROM mending_history") == [
        ("Анна", shlex.join(given))
    ]
