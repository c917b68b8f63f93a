"""The statements that run all the time, on a connection of their own: prepared, in binary.

psycopg's cursor waits for each piece of an answer with a newly registered watcher and makes each
row by keyword; of a read of thousands of rows that is most of the time. See servicedesk/wire.py.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, OperationalError
from psycopg.pq.abc import PGresult
from psycopg.types.string import ByteaBinaryLoader
from psycopg_pool import AsyncConnectionPool

from servicedesk.wire import Statement, Wire

Connection = AsyncConnection[tuple[object, ...]]
Row = TypeVar("Row")
PARAMETER = re.compile(r"%\((\w+)\)s")


class SilentConnectionError(OperationalError):
    """No answer came in time: the server hangs, or the way to it was cut without a word."""


@asynccontextmanager
async def answered_within(
    pool: AsyncConnectionPool[Connection], seconds: float
) -> AsyncIterator[None]:
    """Raises SilentConnectionError when what is done with a connection does not end in time."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        # The other connections went the same way and are just as silent.
        await pool.drain()
        raise SilentConnectionError(f"no answer within {seconds:g} s") from None


class HotConnection:
    """One statement at a time, on a connection beside the pool's, made as theirs are when it is
    first needed. Errors of psycopg rise; a cancelled statement costs the connection."""

    def __init__(self, pool: AsyncConnectionPool[Connection], seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds
        self._lock = asyncio.Lock()
        self._wire: Wire | None = None
        self._statements: dict[str, tuple[Statement, list[str]]] = {}

    async def fetch(
        self, make_row: Callable[[Sequence[Any]], Row], text: str, values: Mapping[str, bytes]
    ) -> list[Row]:
        """Rows, each made from the list of its values; a varchar comes as its UTF-8. `values` are
        in PostgreSQL's binary format, by the names in the text's `%(name)s`."""
        async with self._lock:
            wire, result = await self._run(text, values)
            return wire.rows(result, make_row)

    async def execute(self, text: str, values: Mapping[str, bytes]) -> None:
        async with self._lock:
            await self._run(text, values)

    async def close(self) -> None:
        """The next statement makes another connection."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def _run(self, text: str, values: Mapping[str, bytes]) -> tuple[Wire, PGresult]:
        statement, names = self._numbered(text)
        is_sound = False
        try:
            async with answered_within(self._pool, self._seconds):
                wire = self._wire or await self._open()
                result = await wire.run(statement, [values[name] for name in names])
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError:
            is_sound = True  # it is about the statement, which has ended
            raise
        else:
            is_sound = True
            return wire, result
        finally:
            if not is_sound:
                await self.close()

    async def _open(self) -> Wire:
        # Any: the pool also takes functions in their place, which create_pool gives none of.
        url: Any = self._pool.conninfo
        settings: Any = self._pool.kwargs
        connection: Connection = await AsyncConnection.connect(url, **settings)
        # A text that is only passed on need not be decoded: a varchar's bytes are its UTF-8.
        connection.adapters.register_loader("varchar", ByteaBinaryLoader)
        self._wire = Wire(connection)
        return self._wire

    def _numbered(self, text: str) -> tuple[Statement, list[str]]:
        """The statement with $1, $2, … in place of the names, and these in their order."""
        known = self._statements.get(text)
        if known is None:
            numbers: dict[str, int] = {}

            def number(match: re.Match[str]) -> str:
                return f"${numbers.setdefault(match[1], len(numbers) + 1)}"

            name = f"hot{len(self._statements)}"
            statement = Statement(name, PARAMETER.sub(number, text))
            known = self._statements[text] = (statement, list(numbers))
        return known
