"""The life cycle of a ticket."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.ticketd.samples import HEADERS, IDENTIFIERS, a_ticket
from ticketd.errors import StaleVersionError, TransitionForbiddenError
from ticketd.events import change_event
from ticketd.tickets import STATUSES, TRANSITIONS, Status, close, patch

NOW = datetime(2100, 1, 1, tzinfo=UTC)
ALLOWED = [
    ("new", "in_progress", "ticket.updated"),
    ("new", "closed", "ticket.closed"),
    ("in_progress", "resolved", "ticket.updated"),
    ("in_progress", "closed", "ticket.closed"),
    ("resolved", "closed", "ticket.closed"),
    ("resolved", "in_progress", "ticket.reopened"),
    ("closed", "in_progress", "ticket.reopened"),
]


@pytest.mark.parametrize(("before", "after", "event_type"), ALLOWED)
def test_allowed_transition_and_its_event(before: Status, after: Status, event_type: str) -> None:
    ticket = a_ticket(status=before, closed_at=NOW if before == "closed" else None)
    changed = patch({"status": after}, None, NOW, ticket)
    assert (changed.status, changed.version) == (after, 2)
    assert changed.closed_at == (NOW if after == "closed" else None)
    event = change_event(IDENTIFIERS.next(), HEADERS, None, ticket, changed)
    assert event.event_type == event_type


def test_every_other_transition_is_forbidden() -> None:
    allowed = {(before, after) for before, after, _ in ALLOWED}
    for before in STATUSES:
        for after in STATUSES:
            if before == after or (before, after) in allowed:
                continue
            with pytest.raises(TransitionForbiddenError) as refused:
                patch({"status": after}, None, NOW, a_ticket(status=before))
            for choice in TRANSITIONS[before]:
                assert choice in str(refused.value)


def test_same_status_is_no_transition_in_a_patch_and_one_in_close() -> None:
    ticket = a_ticket(status="closed", closed_at=NOW)
    assert patch({"status": "closed"}, None, NOW, ticket) is ticket
    with pytest.raises(TransitionForbiddenError):
        close(None, NOW, ticket)


def test_version_is_required_before_anything_else() -> None:
    ticket = a_ticket(version=4)
    with pytest.raises(StaleVersionError):
        patch({"status": "resolved"}, frozenset({3, 5}), NOW, ticket)
    with pytest.raises(StaleVersionError):
        close(frozenset(), NOW, ticket)
    assert close(frozenset({3, 4}), NOW, ticket).version == 5


def test_times_of_changes_increase_although_the_clock_steps_back() -> None:
    ticket = a_ticket()._replace(updated_at=NOW)
    changed = close(None, NOW - timedelta(days=1), ticket)
    assert changed.updated_at == changed.closed_at == NOW + timedelta(microseconds=1)
