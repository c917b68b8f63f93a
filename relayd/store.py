"""What only relayd asks of PostgreSQL; the outbox itself is servicedesk.queue's store."""

from collections.abc import AsyncGenerator

from psycopg import AsyncConnection

Connection = AsyncConnection[tuple[object, ...]]

# No lock. NOTIFY is sent by ticketd after its commits, never inside the write transaction, where
# it would take a lock on the whole database at commit.
LISTEN = "LISTEN outbox"


async def connect(url: str) -> Connection:
    """A connection of its own for notifications. Raises psycopg.Error."""
    return await AsyncConnection.connect(
        url, autocommit=True, application_name="relayd listen", connect_timeout=5
    )


async def notifications(connection: Connection) -> AsyncGenerator[None, None]:
    """One item once it listens, then one for each signal; ends only by raising psycopg.Error."""
    await connection.execute(LISTEN)
    yield None
    async for _ in connection.notifies():
        yield None
