"""The judge of the fault tests sees each kind of fault; it would be worth nothing otherwise."""

from dataclasses import dataclass
from uuid import uuid4

import psycopg

from tests.support.checker import Sighting, judge, look, watch

QUEUE = """
INSERT INTO delivery (bucket, receiver, aggregate_id, sequence, event_id, event_type, headers,
                      payload)
VALUES (0, %s, gen_random_uuid(), 1, %s, 'ticket.created', '{}', '{}')
"""
BURY = """
INSERT INTO {table}_dead (bucket, id, {column} aggregate_id, sequence, event_id, event_type,
                          headers, payload, created_at, error, attempts, first_failed_at)
VALUES (0, 1, {value} gen_random_uuid(), 1, gen_random_uuid(), 'ticket.created',
        '{{}}', '{{}}', now(), 'Bad: row', 1, now())
"""


@dataclass(frozen=True, slots=True)
class Seen:
    ticket: str
    sequence: int

    @property
    def event_id(self) -> str:
        return f"{self.ticket} {self.sequence}"


def of(ticket: str, *sequences: int) -> list[Seen]:
    return [Seen(ticket, sequence) for sequence in sequences]


ACCEPTED = [(ticket, sequence) for ticket in ("a", "b") for sequence in (1, 2, 3)]


def test_everything_once_and_in_order_is_fine() -> None:
    mixed = [*of("a", 1), *of("b", 1, 2), *of("a", 2, 3), *of("b", 3)]
    assert look(ACCEPTED, mixed) == Sighting(arrived=6, lost=0, repeated=0, out_of_order=0)


def test_what_is_missing_is_lost() -> None:
    found = look(ACCEPTED, [*of("a", 1, 3), *of("b", 1, 2)])
    assert found == Sighting(arrived=4, lost=2, repeated=0, out_of_order=0)


def test_copy_is_a_repeat_and_not_out_of_order() -> None:
    found = look(ACCEPTED, [*of("a", 1, 2, 1, 3, 2), *of("b", 1, 2, 3)])
    assert found == Sighting(arrived=6, lost=0, repeated=2, out_of_order=0)


def test_first_arrival_behind_a_later_one_is_out_of_order() -> None:
    found = look(ACCEPTED, [*of("a", 1, 3, 2), *of("b", 3, 1, 2)])
    assert found == Sighting(arrived=6, lost=0, repeated=0, out_of_order=3)


def test_event_that_nobody_accepted_does_not_make_up_for_a_lost_one() -> None:
    assert look(ACCEPTED, [*of("a", 1, 2, 3), *of("b", 1, 2), *of("c", 1)]).lost == 1


def test_delivery_that_is_queued_again_is_a_repeat_in_the_database(database_url: str) -> None:
    """Also when the first one is done and gone by then, and whatever the receiver saw of it."""
    watch(database_url)
    twice, once = uuid4(), uuid4()
    with psycopg.connect(database_url, autocommit=True) as connection:
        for event_id in (twice, once):
            for receiver in ("sink", "other"):
                connection.execute(QUEUE, (receiver, event_id))
        connection.execute("DELETE FROM delivery")
        assert judge([], database_url, receiver="sink").repeated_in_database == 0
        connection.execute(QUEUE, ("sink", twice))
    verdict = judge([], database_url, receiver="sink")
    assert verdict.broken_promises == {"repeated in the database": 1}
    assert judge([], database_url, receiver="other").broken_promises == {}
    assert judge([], database_url).repeated_in_database is None


def test_delivery_without_a_note_that_it_is_done_is_unfinished(database_url: str) -> None:
    watch(database_url)
    verdict = judge(ACCEPTED, database_url, deliveries=of("a", 1, 2, 3), receiver="sink")
    assert verdict.broken_promises == {"lost": 3, "unfinished": 3}


def test_dead_rows_of_both_queues_are_dead(database_url: str) -> None:
    watch(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table, column, value in (("outbox", "", ""), ("delivery", "receiver,", "'sink',")):
            connection.execute(BURY.format(table=table, column=column, value=value).encode())
    assert judge([], database_url, receiver="sink").broken_promises == {"dead": 2}
