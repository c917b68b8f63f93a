"""The command lines of both daemons as processes: interrupted, repeated, and on a terminal."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from uuid import uuid4

import psycopg
import pytest

from tests.servicedesk.mending.shop import Shop
from tests.support.processes import PROJECT, wait_until

DEAD_ROWS = 1200
FILL = """
INSERT INTO {queue}_dead (bucket, id, {column} aggregate_id, sequence, event_id, event_type,
                          headers, payload, created_at, error, attempts, first_failed_at)
SELECT 0, n, {value} '00000000-0000-0000-0000-000000000001', n, gen_random_uuid(),
       'ticket.created', '{{}}', '{{}}', now(), 'Bad: worse', 1, now()
FROM generate_series(1, %s) AS n
"""
BLOCKED = """
SELECT FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND application_name LIKE 'mend %' AND datname = current_database()
"""


class Command:
    """`python -m MODULE ARGUMENTS` with a terminal as its standard error."""

    def __init__(self, url: str, module: str, arguments: Sequence[str], terminal: int) -> None:
        self._terminal, inside = pty.openpty() if terminal else (-1, subprocess.PIPE)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "DATABASE_URL": url},
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=inside,
        )
        if terminal:
            os.close(inside)

    def finished(self) -> tuple[int, str, str]:
        """The exit code, the standard output, and what the terminal showed."""
        out, err = self.process.communicate(timeout=30)
        shown = err or b""
        if self._terminal >= 0:
            shown = _read_terminal(self._terminal)
            os.close(self._terminal)
        return self.process.returncode, out.decode(), shown.decode()


def _read_terminal(terminal: int) -> bytes:
    """All that was shown; a terminal ends with an error once nobody else has it open."""
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65_536):
            shown += part
    return shown


def start(url: str, module: str, *arguments: str, terminal: bool = False) -> Command:
    return Command(url, module, arguments, terminal)


@contextlib.contextmanager
def holding(url: str, statement: str) -> Iterator[None]:
    """Row locks of somebody else, until the block ends."""
    with psycopg.connect(url) as holder:
        holder.execute(statement.encode())
        yield
        holder.rollback()


@pytest.mark.parametrize(("module", "queue"), [("relayd", "outbox"), ("notifyd", "delivery")])
def test_interrupted_act_keeps_what_it_did_and_the_same_command_does_the_rest(
    shop: Shop, module: str, queue: str
) -> None:
    column, value = ("receiver,", "'log',") if queue == "delivery" else ("", "")
    shop.connection.execute(
        FILL.format(queue=queue, column=column, value=value).encode(), (DEAD_ROWS,)
    )
    with holding(shop.url, f"SELECT FROM {queue}_dead WHERE id = 700 FOR UPDATE"):
        command = start(shop.url, module, "redrive", "--all", terminal=True)
        wait_until(lambda: shop.rows(BLOCKED), 20, "redriving that waits for the row")
        command.process.send_signal(signal.SIGINT)
        code, out, shown = command.finished()
    assert (code, out) == (130, "")
    assert "redrive: 1200 dead rows selected" in shown
    assert "] 500/1200 42%" in shown
    assert "interrupted at 500 of 1200 dead rows selected; what is done stays done" in shown
    assert "Traceback" not in shown
    assert (shop.count(queue), shop.count("mending_history")) == (500, 500)
    code, out, shown = start(shop.url, module, "redrive", "--all").finished()
    assert (code, out, shown) == (0, "redriven: 700 of 700 dead rows\n", "")
    assert shop.rows(f"SELECT sequence FROM {queue} ORDER BY id") == [
        (n,) for n in range(1, DEAD_ROWS + 1)
    ]
    assert shop.count("mending_history") == DEAD_ROWS


def test_skip_that_deadlocks_with_a_daemon_is_tried_again(shop: Shop) -> None:
    tickets = [uuid4() for _ in range(2)]
    rows = [shop.queue(ticket, 1)[0] for ticket in tickets]
    keys = sorted(shop.park(t, r) for t, r in zip(tickets, rows, strict=True))
    with psycopg.connect(shop.url) as daemon:
        # The other way round: a key first, whose row the command holds by then.
        daemon.execute("SET deadlock_timeout = '1min'")
        daemon.execute("SELECT FROM outbox_parked WHERE key = %s FOR UPDATE", (keys[0],))
        command = start(shop.url, "relayd", "skip", "--all")
        wait_until(lambda: shop.rows(BLOCKED), 20, "skip that waits for the key")
        daemon.execute("SELECT FROM outbox FOR UPDATE")
        daemon.rollback()
    assert command.finished() == (0, "skipped: 2 of 2 parked keys\n", "")
    assert (shop.count("outbox"), shop.count("outbox_dead")) == (0, 2)


@pytest.mark.parametrize("module", ["relayd", "notifyd"])
def test_history_of_both_daemons_is_told_by_its_command(shop: Shop, module: str) -> None:
    receiver = "log" if module == "notifyd" else ""
    event_id = shop.bury(uuid4(), 1, receiver=receiver, error="Беда: 🖨️ בעיה")
    done = start(shop.url, module, "redrive", "--error", "Беда", "--by", "Анна Б.").finished()
    assert done == (0, "redriven: 1 of 1 dead rows\n", "")
    code, out, shown = start(shop.url, module, "history").finished()
    assert (code, shown) == (0, "")
    [line] = [line for line in out.splitlines() if str(event_id) in line]
    for told in ("redrive", "Анна Б.", "queued again", "--error 'Беда'", "בעיה"):
        assert told in line


@pytest.mark.parametrize("module", ["relayd", "notifyd"])
def test_help_tells_what_may_be_selected(module: str) -> None:
    code, out, _ = start("", module, "redrive", "--help").finished()
    assert code == 0
    for told in ("--id", "--key", "--error", "--since", "--until", "--all", "--dry-run",
                 "--from-topic", "--by"):  # fmt: skip
        assert told in out
