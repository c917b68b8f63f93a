"""The two stages and the trimming side by side, from a database that is ready to the stop."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol

import psycopg

from notifyd.consumer import TopicConsumer
from notifyd.intake import Batch, Intake
from notifyd.store import InboxStore
from servicedesk.database import AWAY, SchemaError
from servicedesk.logs import Log
from servicedesk.trimming import Trimming

OK = "ok"
SCHEMA_SECONDS = 1.0


class Deliveries(Protocol):
    """What the worker needs of servicedesk.queue.drain.Drain."""

    def readiness(self) -> dict[str, str]: ...

    async def run(self, stop: asyncio.Event) -> None: ...


class Buckets(Protocol):
    """What the worker needs of servicedesk.queue.lease_store.LeaseStore."""

    async def require_buckets(self) -> None: ...


class Worker:
    """Starts nothing before the schema is there; waits for it without an end."""

    def __init__(
        self,
        *,
        store: InboxStore,
        buckets: Buckets,
        intake: Intake,
        consumer: TopicConsumer[Batch],
        deliveries: Deliveries,
        trimming: Trimming,
        log: Log,
    ) -> None:
        self._store = store
        self._buckets = buckets
        self._intake = intake
        self._consumer = consumer
        self._deliveries = deliveries
        self._trimming = trimming
        self._log = log
        self._schema = "not asked yet"

    def readiness(self) -> Mapping[str, str]:
        """The checks of /readyz; callable from any thread. A receiver that is away is no reason
        for a restart or for traffic to go elsewhere, so circuits are metrics and not checks."""
        checks = self._intake.readiness() | {
            "schema": self._schema,
            "kafka": self._consumer.readiness(),
        }
        deliveries = self._deliveries.readiness()
        # The database as seen by the stage that is worse off.
        return checks | {
            name: reason
            for name, reason in deliveries.items()
            if reason != OK or name not in checks
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set and what was under way is finished.

        Raises BucketCountError, or an ExceptionGroup with a fault of the program.
        """
        if not await self._schema_ready(stop):
            return
        async with asyncio.TaskGroup() as group:
            trimming = group.create_task(self._trimming.run())
            stages = [
                group.create_task(self._consumer.run(stop)),
                group.create_task(self._deliveries.run(stop)),
            ]
            await asyncio.wait(stages)
            trimming.cancel()
        await self._store.close()

    async def _schema_ready(self, stop: asyncio.Event) -> bool:
        """False when the stop came first."""
        while not stop.is_set():
            reason = await self._schema_reason()
            if reason is None:
                self._schema = OK
                return True
            if reason != self._schema:
                self._log.warning("waiting_for_database", reason=reason)
            self._schema = reason
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SCHEMA_SECONDS)
        return False

    async def _schema_reason(self) -> str | None:
        try:
            await self._store.check_schema()
            await self._buckets.require_buckets()
        except SchemaError as error:
            return str(error)
        except (*AWAY, psycopg.Error) as error:
            return f"away: {type(error).__name__}"
        return None
