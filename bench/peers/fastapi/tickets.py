"""A ticket as it begins."""

from datetime import UTC, datetime

from identifiers import new_id
from models import TicketRow
from schemas import NewTicket


def open_ticket(new: NewTicket) -> TicketRow:
    """`created_at` is the millisecond of the id."""
    ticket_id = new_id()
    created_at = datetime.fromtimestamp((ticket_id.int >> 80) / 1000, UTC)
    return TicketRow(
        id=ticket_id,
        title=new.title,
        description=new.description,
        status="new",
        priority=new.priority,
        requester=new.requester,
        assignee=new.assignee,
        version=1,
        created_at=created_at,
        updated_at=created_at,
        closed_at=None,
    )
