"""Wakes the drain when ticketd signals new rows. Only a shortcut: the adaptive poll is the
guarantee, so a lost signal or connection costs a poll's wait and nothing else."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import psycopg

from relayd.store import connect, notifications
from servicedesk.backoff import Backoff
from servicedesk.logs import Log

RECONNECT = Backoff(base_seconds=0.5, cap_seconds=15.0)


async def listen(url: str, wake: Callable[[], None], log: Log, random: Callable[[], float]) -> None:
    """Runs until it is cancelled, connecting again whenever the connection is lost."""
    failures = 0
    while True:
        try:
            async with (
                await connect(url) as connection,
                aclosing(notifications(connection)) as signals,
            ):
                async for _ in signals:
                    # The first one comes once we listen: rows may have come before it.
                    failures = 0
                    wake()
        except psycopg.Error as error:
            failures += 1
            # The pool tells the same story while the database is away; once is enough here.
            if failures == 1:
                log.warning("listen_interrupted", error=str(error).strip())
        await asyncio.sleep(RECONNECT.delay_seconds(max(failures, 1), random))
