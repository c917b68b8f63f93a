"""Both stores, for tests that must hold for either."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.ticketd.samples import connector
from ticketd.lanes import LaneSettings
from ticketd.memory import MemoryTicketStore
from ticketd.metrics import Metrics
from ticketd.store import PostgresTicketStore, TicketStore

OpenStore = Callable[[], AbstractAsyncContextManager[TicketStore]]


@asynccontextmanager
async def postgres_store(url: str) -> AsyncIterator[PostgresTicketStore]:
    store = PostgresTicketStore(
        lanes=LaneSettings(
            connect=connector(url, "store"),
            in_tasks=True,
            now=time.monotonic,
            lanes=2,
            most=100,
            queue_limit=1000,
            retry_seconds=5.0,
        ),
        list_lanes=4,
        signal=lambda: None,
        observe=Metrics().batches,
        count_error=lambda kind: None,
    )
    await store.open()
    lanes = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        lanes.cancel()
        await asyncio.wait([lanes])
        await store.close()


@asynccontextmanager
async def _memory_store() -> AsyncIterator[TicketStore]:
    yield MemoryTicketStore(time.monotonic, 86_400.0)


@pytest.fixture(params=["memory", "postgres"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Opens the store; everything in it is new for the test."""
    if request.param == "memory":
        return _memory_store
    url: str = request.getfixturevalue("database_url")
    return lambda: postgres_store(url)


@pytest.fixture(params=["memory", "postgres"])
def store_environment(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings that choose a store; everything in it is new for the test."""
    if request.param == "memory":
        return {}
    return {"DATABASE_URL": request.getfixturevalue("database_url")}
