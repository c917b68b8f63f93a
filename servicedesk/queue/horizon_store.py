"""The SQL of the horizon: up to which id no row can still appear, and on which server."""

from typing import cast

from servicedesk.queue.statements import Statements


class HorizonStore:
    """Asks one sequence, and the lock manager's memory."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    # No lock; the sequence's one row. The server is known by when its statistics begin: anew after
    # a crash, and on a standby by themselves.
    NEWEST_ID = """
    SELECT (SELECT stats_reset::text FROM pg_stat_wal),
           coalesce(pg_sequence_last_value('{queue}_id_seq'), 0)
    """

    async def newest_id(self) -> tuple[str, int]:
        """The server, and the newest id drawn on it, whether or not its row is visible yet."""
        rows = await self._statements.fetch_tuples(self.NEWEST_ID, {})
        server, newest_id = rows[0]
        return str(server), int(str(newest_id))

    # No lock, and no table: the lock manager's memory. A writer takes this lock before it draws an
    # id and holds it until its row is visible to every later snapshot.
    WRITERS = """
    SELECT (SELECT stats_reset::text FROM pg_stat_wal), array(
        SELECT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND relation = '{queue}'::regclass
          AND mode = 'RowExclusiveLock' AND granted
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
    """

    async def writers(self) -> tuple[str, frozenset[str]]:
        """The server, and the transactions that write to the table at this moment."""
        rows = await self._statements.fetch_tuples(self.WRITERS, {})
        server, names = rows[0]
        return str(server), frozenset(cast("list[str]", names))
