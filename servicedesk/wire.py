"""A connection to PostgreSQL for statements that run again and again: prepared once, parameters and
rows in binary, and the socket watched for as long as the connection lives.

psycopg connects and understands the rows; its cursors do more for a statement than a batch needs.
Source: libpq, chapter 34.4 (asynchronous command processing), through psycopg.pq.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

Connection = AsyncConnection[tuple[object, ...]]
Row = TypeVar("Row")

BINARY = 1
# uvloop has been seen to be silent about a socket whose number had been another's a moment before.
LOOK_SECONDS = 0.25
GOOD = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK})


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with $1, $2, … and a name that no other statement has. The parameters' types are what
    the SQL casts them to."""

    name: str
    text: str


class Wire:
    """One statement at a time. `run` raises psycopg.Error: an OperationalError when the connection
    is lost, and then it stays lost."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._prepared: set[str] = set()
        self._results: list[PGresult] = []
        self._answer: asyncio.Future[PGresult] | None = None
        self._loop.add_reader(self._socket, self._readable)
        self._looked_for: asyncio.Future[PGresult] | None = None
        self._look_timer = self._loop.call_later(LOOK_SECONDS, self._look)

    async def run(self, statement: Statement, parameters: Sequence[bytes | None]) -> PGresult:
        name = statement.name.encode()
        if statement.name not in self._prepared:
            self._require_open()
            self._pgconn.send_prepare(name, statement.text.encode())
            await self._result()
            self._prepared.add(statement.name)
        self._require_open()
        formats = [BINARY] * len(parameters)
        self._pgconn.send_query_prepared(name, parameters, formats, BINARY)
        return await self._result()

    def rows(self, result: PGresult, make_row: Callable[[Sequence[Any]], Row]) -> list[Row]:
        """The rows of a result of `run`, each from its values as Python objects."""
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result)
        return transformer.load_rows(0, result.ntuples, make_row)

    async def close(self) -> None:
        self._stop_watching()
        await self._connection.close()

    def _require_open(self) -> None:
        # Nobody watches the socket of one that was lost between two statements.
        if self._socket < 0 or self._pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is lost")

    async def _result(self) -> PGresult:
        answer = self._answer = self._loop.create_future()
        self._send()
        try:
            result: PGresult = await answer
        finally:
            self._answer = None
        if result.status not in GOOD:
            raise psycopg.errors.error_from_result(result)
        return result

    def _send(self) -> None:
        """What does not fit into the socket is sent when it has room."""
        try:
            is_left = self._pgconn.flush()
        except psycopg.Error as error:
            self._lose(error)
            return
        if is_left:
            self._loop.add_writer(self._socket, self._send)
        else:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            while self._answer is not None and not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    self._finish()
                else:
                    self._results.append(result)
        except psycopg.Error as error:
            self._lose(error)
            return
        if pgconn.status != ConnStatus.OK:
            self._lose(psycopg.OperationalError("the connection is lost"))

    def _look(self) -> None:
        """An answer that was waited for at the last look as well may be there without a word."""
        if self._answer is not None and self._answer is self._looked_for:
            self._loop.remove_reader(self._socket)
            self._loop.add_reader(self._socket, self._readable)
            self._readable()
        self._looked_for = self._answer
        if self._socket >= 0:
            self._look_timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _finish(self) -> None:
        """The server is ready for the next statement; one statement has one result."""
        results, self._results = self._results, []
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            if results:
                answer.set_result(results[-1])
            else:
                answer.set_exception(psycopg.OperationalError("the server gave no result"))

    def _lose(self, error: psycopg.Error) -> None:
        self._stop_watching()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def _stop_watching(self) -> None:
        if self._socket >= 0:
            self._look_timer.cancel()
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket = -1
