"""What the acts of mending share: an author, and one set of tables to act on.

Each act is one transaction, which also notes in the history what was done. Locks are taken in the
order in which the daemons take them: the row, then its key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from psycopg.rows import class_row

from servicedesk.mending.store import Connection
from servicedesk.queue.statements import render
from servicedesk.queue.tables import QueueTables

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who acts, and on what selection, as the history tells it."""

    operator: str
    selection: str


class ActStore:
    """Raises psycopg.Error."""

    def __init__(self, connection: Connection, tables: QueueTables, author: Author) -> None:
        """The connection is in autocommit."""
        self._connection = connection
        self._tables = tables
        self._author = {"operator": author.operator, "selection": author.selection}

    def _integer(self, template: str, parameters: Mapping[str, object]) -> int:
        text = render(template, self._tables).encode()
        row = self._connection.execute(text, {**parameters, **self._author}).fetchone()
        return int(str(row[0])) if row else 0

    def _fetch(self, kind: type[Row], template: str, parameters: Mapping[str, object]) -> list[Row]:
        text = render(template, self._tables).encode()
        with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            cursor.execute(text, {**parameters, **self._author})
            return cursor.fetchall()
