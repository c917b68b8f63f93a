"""A database to mend: rows of every kind, and the command line to mend them with."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg

from servicedesk.bucket import bucket_of
from servicedesk.mending.command import mend
from servicedesk.queue.row import queue_key
from servicedesk.queue.tables import OUTBOX, QueueTables

Connection = psycopg.Connection[tuple[object, ...]]
OCCURRED = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


class Shop:
    """A database to mend, and the command line to do it with."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.url = url
        self.connection = connection

    def mend(self, *arguments: str, tables: QueueTables = OUTBOX) -> int:
        return mend(arguments, program="test", tables=tables, database_url=lambda: self.url)

    def queue(self, ticket: UUID, sequence: int) -> tuple[int, UUID]:
        """Insert an outbox row; returns its id and its event's."""
        event_id, key = uuid4(), queue_key(ticket)
        found = self.connection.execute(
            "INSERT INTO outbox (bucket, aggregate_id, sequence, event_id, event_type, headers,"
            " payload, created_at) VALUES (%s, %s, %s, %s, 'ticket.updated', '{}', '{}', %s)"
            " RETURNING id",
            (bucket_of(key), ticket, sequence, event_id, OCCURRED),
        ).fetchone()
        assert found is not None
        return int(str(found[0])), event_id

    def park(
        self, ticket: UUID, first_id: int, error: str = "Bad: worse", *, minutes_ago: int = 0
    ) -> str:
        key = queue_key(ticket)
        self.connection.execute(
            "INSERT INTO outbox_parked"
            " (bucket, key, first_id, attempts, next_at, error, first_failed_at)"
            " VALUES (%s, %s, %s, 3, now() + interval '1 hour', %s,"
            " now() - %s * interval '1 minute')",
            (bucket_of(key), key, first_id, error, minutes_ago),
        )
        return key

    def bury(
        self,
        ticket: UUID,
        sequence: int,
        receiver: str = "",
        *,
        error: str = "Bad: worse",
        minutes_ago: int = 0,
    ) -> UUID:
        """A dead row, as if given up so long ago."""
        queue = "delivery" if receiver else "outbox"
        event_id, key = uuid4(), queue_key(ticket, receiver)
        column, value = ("receiver,", "%(receiver)s,") if receiver else ("", "")
        self.connection.execute(
            f"INSERT INTO {queue}_dead (bucket, id, {column} aggregate_id, sequence, event_id,"
            " event_type, headers, payload, created_at, error, attempts, first_failed_at,"
            " failed_at)"
            f" VALUES (%(bucket)s, %(id)s, {value} %(ticket)s, %(sequence)s, %(event_id)s,"
            " 'ticket.updated', '{\"a\": 1}', '{\"b\": 2}', %(at)s, %(error)s, 10, %(at)s,"
            " %(failed_at)s)",
            {
                "bucket": bucket_of(key),
                "id": 1_000_000 + sequence,
                "receiver": receiver,
                "ticket": ticket,
                "sequence": sequence,
                "event_id": event_id,
                "at": OCCURRED,
                "error": error,
                "failed_at": datetime.now(UTC) - timedelta(minutes=minutes_ago),
            },
        )
        return event_id

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def count(self, table: str) -> int:
        return int(str(self.rows(f"SELECT count(*) FROM {table}")[0][0]))
