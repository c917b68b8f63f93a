"""Compares what ticketd acknowledged with what a receiver got: the one judge of all fault tests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from tests.support.webhooks import Delivery

Accepted = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of events. `repeated` are copies of an event that the receiver had already; they can
    be recognised by their id. `out_of_order` counts, once repeats are dropped, events that came
    after a later one of their ticket."""

    accepted: int
    delivered: int
    lost: int
    repeated: int
    out_of_order: int
    repeated_in_database: int
    dead: int

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, delivered {self.delivered}, lost {self.lost}, "
            f"repeated {self.repeated} (in the database {self.repeated_in_database}), "
            f"out of order {self.out_of_order}, dead {self.dead}"
        )


DONE = "SELECT event_id, count(*) FROM delivery_done WHERE receiver = %s GROUP BY event_id"
DEAD = "SELECT (SELECT count(*) FROM outbox_dead) + (SELECT count(*) FROM delivery_dead)"


def judge(
    accepted: Iterable[Accepted],
    deliveries: Sequence[Delivery],
    database_url: str,
    receiver: str = "webhook",
) -> Verdict:
    """`accepted` are (ticket id, sequence) of the events that ticketd acknowledged."""
    expected = set(accepted)
    seen: set[str] = set()
    last: dict[str, int] = {}
    repeated = out_of_order = 0
    for delivery in deliveries:
        if delivery.webhook_id in seen:
            repeated += 1
            continue
        seen.add(delivery.webhook_id)
        out_of_order += delivery.sequence < last.get(delivery.ticket, 0)
        last[delivery.ticket] = max(delivery.sequence, last.get(delivery.ticket, 0))
    delivered = {(delivery.ticket, delivery.sequence) for delivery in deliveries}
    with psycopg.connect(database_url, autocommit=True) as connection:
        done = connection.execute(DONE, (receiver,)).fetchall()
        dead = connection.execute(DEAD).fetchone()
    return Verdict(
        accepted=len(expected),
        delivered=len(seen),
        lost=len(expected - delivered),
        repeated=repeated,
        out_of_order=out_of_order,
        repeated_in_database=sum(count - 1 for _, count in done) + max(0, len(seen) - len(done)),
        dead=int(dead[0]) if dead else 0,
    )
