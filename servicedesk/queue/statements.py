"""Runs the queue's statements: templates over the names in `tables.py`, values as parameters.

Each call is one transaction on a connection of its own; errors of psycopg rise unchanged. A call
that does not end in time is cut off, so a connection that has fallen silent holds nothing up. Reads
and deletions of rows, which run all the time, have a connection each (hot.py).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row
from psycopg_pool import AsyncConnectionPool

from servicedesk.queue.hot import HotConnection, answered_within
from servicedesk.queue.tables import QueueTables

Pool = AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]
Row = TypeVar("Row")
# The columns of servicedesk.queue.row.QueuedRow, in the order of its fields. What is cast to
# varchar, which costs nothing, comes as UTF-8 (hot.py).
ROW = (
    "bucket, id, {receiver} AS receiver, sequence, event_id::text AS event_id, event_type, "
    "headers, payload::varchar AS payload, created_at, {key} AS key"
)


COLUMNS = "bucket, id, receiver, sequence, event_id, event_type, headers, payload, created_at, key"


def render(template: str, tables: QueueTables) -> str:
    """Fill a template's names: {queue}, {receiver}, {receiver_column}, {row}, {columns} and {key}.

    The key's expression is `servicedesk.queue.row.queue_key` in SQL.
    """
    receiver = f"{tables.name}.receiver" if tables.has_receiver else "''::text"
    ticket = f"{tables.name}.aggregate_id::text"
    key = f"{receiver} || '/' || {ticket}" if tables.has_receiver else ticket
    return template.format(
        queue=tables.name,
        receiver=receiver,
        receiver_column="receiver," if tables.has_receiver else "",
        columns=COLUMNS,
        row=ROW.format(receiver=receiver, key=key),
        key=key,
    )


class Statements:
    """One set of tables on a pool of autocommit connections.

    A statement may take `seconds`, far more than any of the queue's needs.
    """

    def __init__(self, pool: Pool, tables: QueueTables, seconds: float = 15.0) -> None:
        self._pool = pool
        self._seconds = seconds
        self.tables = tables
        self._texts: dict[str, bytes] = {}
        self.reading = HotConnection(pool, seconds)
        self.completing = HotConnection(pool, seconds)

    async def close(self) -> None:
        """Give back the connections that were kept; the next statements take others."""
        await self.reading.close()
        await self.completing.close()

    def text(self, template: str) -> bytes:
        """The statement that runs for a template; rendered once."""
        text = self._texts.get(template)
        if text is None:
            text = self._texts[template] = render(template, self.tables).encode()
        return text

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[tuple[object, ...]]]:
        """Raises SilentConnectionError when what is done with it does not end in time."""
        async with (
            answered_within(self._pool, self._seconds),
            self._pool.connection() as connection,
        ):
            yield connection

    async def execute(self, template: str, parameters: Mapping[str, object]) -> None:
        async with self._connection() as connection:
            await connection.execute(self.text(template), parameters)

    async def fetch(
        self, kind: type[Row], template: str, parameters: Mapping[str, object]
    ) -> list[Row]:
        """Rows as instances of `kind`, whose fields are named as the columns."""
        async with (
            self._connection() as connection,
            connection.cursor(row_factory=class_row(kind)) as cursor,
        ):
            await cursor.execute(self.text(template), parameters)
            return await cursor.fetchall()

    async def fetch_tuples(
        self, template: str, parameters: Mapping[str, object]
    ) -> list[tuple[object, ...]]:
        async with (
            self._connection() as connection,
            connection.cursor(row_factory=tuple_row) as cursor,
        ):
            await cursor.execute(self.text(template), parameters)
            return await cursor.fetchall()

    async def fetch_integer(
        self, template: str, parameters: Mapping[str, object] | None = None
    ) -> int:
        """The only column of the only row."""
        rows = await self.fetch_tuples(template, parameters or {})
        return int(str(rows[0][0]))
