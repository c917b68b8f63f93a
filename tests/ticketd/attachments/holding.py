"""Statements on attachments that wait in the midst of their work for as long as a test wants."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.support.processes import wait_until

LOCK = 7
HELD = "held up"
# A statement that gets to such a row waits for the test, which kills its ticketd there. It asks
# again and again: a wait for a lock would be given up soon, as that for a row that somebody holds.
HOLD_UP = """
CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('application_name', '{held}', true);
    WHILE NOT pg_try_advisory_xact_lock({lock}) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER hold_up BEFORE {event} ON attachments FOR EACH ROW EXECUTE FUNCTION hold_up();
"""
WAITING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s
"""


@contextmanager
def held_up(url: str, event: str, *, then_ended: bool) -> Iterator[psycopg.Connection[Any]]:
    """While statements on attachments wait. At the end they go on one after another, or are ended,
    as the server would end them for a client that is gone."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(HOLD_UP.format(held=HELD, lock=LOCK, event=event).encode())
        connection.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
        yield connection
        if then_ended:
            for (pid,) in connection.execute(WAITING, (HELD,)).fetchall():
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            wait_until(lambda: how_many_wait(connection) == 0, 10, "end of the statements")
        connection.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())
        connection.execute(b"DROP TRIGGER hold_up ON attachments")


def how_many_wait(connection: psycopg.Connection[Any]) -> int:
    return len(connection.execute(WAITING, (HELD,)).fetchall())
