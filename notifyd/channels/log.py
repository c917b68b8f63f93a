"""The `log` channel: one JSON line an event. It cannot fail."""

import orjson

from notifyd.channels.channel import single_line
from servicedesk.logs import Log
from servicedesk.queue.row import Acknowledged, Outcome, QueuedRow


class LogChannel:
    """Writes what an operator needs to follow a ticket; the description and people stay out."""

    timeout_seconds = 0.2

    def __init__(self, log: Log) -> None:
        self._log = log

    async def deliver(self, row: QueuedRow) -> Outcome:
        ticket = orjson.loads(row.payload)["payload"]
        # Checked when they were queued, other than what the envelope holds.
        correlation = orjson.loads(row.headers)
        self._log.info(
            "notification",
            event_id=row.event_id,
            event_type=row.event_type,
            ticket_id=row.aggregate_id,
            sequence=row.sequence,
            title=single_line(str(ticket.get("title", ""))),
            status=ticket.get("status"),
            request_id=correlation.get("request_id"),
            traceparent=correlation.get("traceparent"),
        )
        return Acknowledged()

    async def probe(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing to release."""
