"""Compares what ticketd acknowledged with what the topic holds and what a receiver got: the one
judge of all fault tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import psycopg

Accepted = tuple[str, int]


class Arrival(Protocol):
    """One copy of an event, in the topic or at a receiver."""

    @property
    def event_id(self) -> str: ...

    @property
    def ticket(self) -> str: ...

    @property
    def sequence(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Counts of events seen in one place. `repeated` are copies of an event that was there already;
    they can be recognised by their id. `out_of_order` counts, once repeats are dropped, events
    that came after a later one of their ticket."""

    arrived: int
    lost: int
    repeated: int
    out_of_order: int

    def __str__(self) -> str:
        return (
            f"{self.arrived} arrived, {self.lost} lost, {self.repeated} repeated, "
            f"{self.out_of_order} out of order"
        )


NOTHING_ASKED = Sighting(arrived=0, lost=0, repeated=0, out_of_order=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the accepted events; a place that was not looked at has all zeros, or None.

    `repeated_in_database` counts deliveries that were queued for a receiver again after it was
    queued once; `unfinished` what it took without a note that it is done.
    """

    accepted: int
    topic: Sighting
    receiver: Sighting
    repeated_in_database: int | None
    unfinished: int
    dead: int

    @property
    def delivered(self) -> int:
        return self.receiver.arrived

    @property
    def lost(self) -> int:
        return self.topic.lost + self.receiver.lost

    @property
    def repeated(self) -> int:
        return self.topic.repeated + self.receiver.repeated

    @property
    def out_of_order(self) -> int:
        return self.topic.out_of_order + self.receiver.out_of_order

    @property
    def broken_promises(self) -> dict[str, int]:
        """What has to be zero whatever happens, and is not."""
        promises = {
            "lost": self.lost,
            "out of order": self.out_of_order,
            "repeated in the database": self.repeated_in_database or 0,
            "unfinished": self.unfinished,
            "dead": self.dead,
        }
        return {promise: count for promise, count in promises.items() if count}

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}; topic: {self.topic}; receiver: {self.receiver}; "
            f"repeated in the database {self.repeated_in_database}, dead {self.dead}"
        )


# What comes into the queue of deliveries, kept for good: the queue itself forgets. A trigger for
# each statement, so that it costs the daemons little.
WATCH = """
CREATE TABLE IF NOT EXISTS delivery_queued (event_id uuid NOT NULL, receiver text NOT NULL);
CREATE OR REPLACE FUNCTION note_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO delivery_queued SELECT event_id, receiver FROM added;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER note_deliveries AFTER INSERT ON delivery
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note_deliveries();
"""
REPEATED = """
SELECT count(*) - count(DISTINCT event_id) FROM delivery_queued WHERE receiver = %s
"""
DONE = "SELECT count(*) FROM delivery_done WHERE receiver = %s"
DEAD = "SELECT (SELECT count(*) FROM outbox_dead) + (SELECT count(*) FROM delivery_dead)"


def look(accepted: Iterable[Accepted], arrivals: Iterable[Arrival]) -> Sighting:
    """`accepted` are (ticket id, sequence) of the events that ticketd acknowledged; `arrivals`
    come in the order seen, at least per ticket."""
    seen: set[str] = set()
    found: set[Accepted] = set()
    last: dict[str, int] = {}
    repeated = out_of_order = 0
    for arrival in arrivals:
        if arrival.event_id in seen:
            repeated += 1
            continue
        seen.add(arrival.event_id)
        found.add((arrival.ticket, arrival.sequence))
        newest = last.get(arrival.ticket, 0)
        out_of_order += arrival.sequence < newest
        last[arrival.ticket] = max(arrival.sequence, newest)
    lost = len(set(accepted) - found)
    return Sighting(arrived=len(seen), lost=lost, repeated=repeated, out_of_order=out_of_order)


def watch(database_url: str) -> None:
    """Note from now on what is queued for receivers; `judge` needs it."""
    with psycopg.connect(database_url) as connection:
        connection.execute(WATCH.encode())


def judge(
    accepted: Iterable[Accepted],
    database_url: str,
    *,
    topic: Iterable[Arrival] | None = None,
    deliveries: Iterable[Arrival] | None = None,
    receiver: str = "",
) -> Verdict:
    """`deliveries` are what `receiver` took; `topic` is the log of all partitions. The database has
    been watched since before the first event."""
    expected = set(accepted)
    got = NOTHING_ASKED if deliveries is None else look(expected, deliveries)
    repeated, unfinished = None, 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        dead = _count(connection, DEAD, ())
        if receiver:
            repeated = _count(connection, REPEATED, (receiver,))
            unfinished = max(0, got.arrived - _count(connection, DONE, (receiver,)))
    return Verdict(
        accepted=len(expected),
        topic=NOTHING_ASKED if topic is None else look(expected, topic),
        receiver=got,
        repeated_in_database=repeated,
        unfinished=unfinished,
        dead=dead,
    )


def _count(
    connection: psycopg.Connection[tuple[object, ...]], statement: str, values: tuple[object, ...]
) -> int:
    row = connection.execute(statement.encode(), values).fetchone()
    return int(str(row[0])) if row else 0
