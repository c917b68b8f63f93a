"""Forgets idempotency keys that are old enough, a few at a time, beside the requests.

Every worker does it; they pass over each other's rows, so one at a time does the work.
"""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg

from servicedesk.logs import Log
from servicedesk.wire import Connection

ROWS = 1000
EVERY_SECONDS = 60.0
PAUSE_SECONDS = 0.05


class KeyExpiry:
    """Forgets keys that are older than `key_seconds`; statements are small, so that no creation
    waits for one."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        key_seconds: float,
        log: Log,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        self._every_seconds = every_seconds
        self._connect = connect
        self._key_seconds = key_seconds
        self._log = log

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.expire()
            except psycopg.Error as error:
                # Whatever it is, also a schema that is too old, it is no reason to end a worker.
                self._log.warning("key_expiry_postponed", error_class=type(error).__name__)

    # Index on created_at, the oldest first. The rows are locked, and those that somebody else holds
    # are left to them: a creation that meets a row on its way out waits for this commit, and this
    # waits for nobody.
    EXPIRE = """
    DELETE FROM idempotency_key WHERE digest = ANY(ARRAY(
        SELECT digest FROM idempotency_key
        WHERE created_at < now() - make_interval(secs => %(age_seconds)s)
        ORDER BY created_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED
    ))
    """

    async def expire(self) -> int:
        """How many keys were old enough and are gone. Raises psycopg.Error."""
        total = 0
        connection = await self._connect()
        async with connection:
            while True:
                values = {"age_seconds": self._key_seconds, "rows": ROWS}
                cursor = await connection.execute(self.EXPIRE.encode(), values)
                total += cursor.rowcount
                if cursor.rowcount < ROWS:
                    return total
                await asyncio.sleep(PAUSE_SECONDS)
