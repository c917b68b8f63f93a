"""Which database this is: names in a Redis that several databases share must not meet.

Tickets of another database would be answered with otherwise, also of one that was made anew.
"""

from collections.abc import Awaitable, Callable

from servicedesk.wire import Connection

# Two small tables: a row for each migration, and the catalogue's row of this database.
INSTALLATION = """
SELECT (SELECT min(applied_at) FROM schema_migration)::text || ' ' || oid || ' ' || datname
FROM pg_database WHERE datname = current_database()
"""


async def read_installation(connect: Callable[[], Awaitable[Connection]]) -> str:
    """When this database was first migrated, and what it is on its server; the same for everybody
    who uses it, also after a failover. Raises psycopg.Error."""
    async with await connect() as connection:
        cursor = await connection.execute(INSTALLATION)
        row = await cursor.fetchone()
    return str(row[0]) if row else ""
