"""Waking relayd: NOTIFY after commits, at most once in a few milliseconds, on its own connection.

It saves relayd's poll interval and nothing else; its failure never reaches a request.
"""

import asyncio
from collections.abc import Awaitable, Callable

import psycopg

from servicedesk.logs import Log
from servicedesk.wire import Connection

COALESCE_SECONDS = 0.01
RECONNECT_SECONDS = 1.0


class OutboxSignal:
    """`touch` after a commit; `run` sends the signals until it is cancelled."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], log: Log) -> None:
        self._connect = connect
        self._log = log
        self._touched = asyncio.Event()

    def touch(self) -> None:
        self._touched.set()

    async def run(self) -> None:
        while True:
            await self._touched.wait()
            try:
                await self._signal_while_connected()
            except psycopg.Error as error:
                self._log.warning("outbox_signal_failed", error_class=type(error).__name__)
                await asyncio.sleep(RECONNECT_SECONDS)

    # Outside of any transaction that writes: NOTIFY takes a database-wide lock at commit.
    NOTIFY = "NOTIFY outbox"

    async def _signal_while_connected(self) -> None:
        connection = await self._connect()
        try:
            while True:
                await self._touched.wait()
                self._touched.clear()
                await connection.execute(self.NOTIFY)
                await asyncio.sleep(COALESCE_SECONDS)
        finally:
            await connection.close()
