"""Attachments as JSON: as the API shows them, and in the events of their ticket."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from servicedesk.bucket import bucket_of
from servicedesk.queue.row import queue_key
from ticketd.attachments.attachment import Attachment
from ticketd.attachments.bucket import Upload
from ticketd.events import TicketEvent
from ticketd.representation import members as ticket_members
from ticketd.representation import timestamp
from ticketd.tickets import Ticket

ADDED = "ticket.attachment_added"
REMOVED = "ticket.attachment_removed"


def members(attachment: Attachment) -> dict[str, Any]:
    return {
        "id": str(attachment.id),
        "ticket_id": str(attachment.ticket_id),
        "state": attachment.state,
        "name": attachment.name,
        "content_type": attachment.content_type,
        "size": attachment.size,
        "sha256": attachment.sha256.hex(),
        "created_at": timestamp(attachment.created_at),
        "completed_at": attachment.completed_at and timestamp(attachment.completed_at),
    }


def attachment_json(attachment: Attachment) -> bytes:
    return orjson.dumps(members(attachment))


def list_json(attachments: Sequence[Attachment]) -> bytes:
    return orjson.dumps({"items": [members(attachment) for attachment in attachments]})


def upload_json(attachment: Attachment, upload: Upload) -> bytes:
    method, url, headers = upload.request
    expires_at = timestamp(upload.expires_at)
    return orjson.dumps(
        {
            "attachment": members(attachment),
            "upload": {"method": method, "url": url, "headers": headers, "expires_at": expires_at},
        }
    )


def attachment_event(
    event_type: str, event_id: UUID, headers: bytes, ticket: Ticket, attachment: Attachment
) -> TicketEvent:
    """`ticket` as it is after the event. The attachment travels as the payload's member
    `attachment`, without any URL: who reads events need not be who may read files."""
    shown = members(attachment)
    # The type of the event says it.
    del shown["state"]
    payload = ticket_members(ticket) | {"attachment": shown}
    return TicketEvent(
        bucket=bucket_of(queue_key(ticket.id)),
        event_id=event_id,
        event_type=event_type,
        headers=headers,
        payload=orjson.dumps(payload, option=orjson.OPT_UTC_Z),
    )
