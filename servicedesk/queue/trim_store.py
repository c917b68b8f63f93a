"""The SQL of forgetting what is old beside a queue: its dead rows, and what was mended in it.

Each function is one small transaction, and several daemons may trim at once. Dead rows that
somebody else holds, such as a redriving, are passed over.
"""

from servicedesk.queue.statements import Statements


class TrimStore:
    """Raises psycopg.Error; see servicedesk.database.AWAY."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    # Row locks on the rows it deletes. {queue}_dead_failed finds the oldest, the rows are then
    # reached by their ctid, which stands still because dead rows are never updated.
    TRIM_DEAD = """
    WITH gone AS (
        DELETE FROM {queue}_dead WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM {queue}_dead
            WHERE failed_at < now() - make_interval(secs => %(age_seconds)s)
            ORDER BY failed_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED))
        RETURNING 1
    )
    SELECT count(*) FROM gone
    """

    async def trim_dead(self, age_seconds: float, rows: int) -> int:
        """Forget at most `rows` rows given up longer ago than `age_seconds`; how many it was."""
        return await self._trim(self.TRIM_DEAD, age_seconds, rows)

    # As above, but for waiting: nobody else locks these rows. The primary key (queue, id) finds the
    # oldest, because ids grow with time: only the first entries are looked at.
    TRIM_HISTORY = """
    WITH oldest AS MATERIALIZED (
        SELECT ctid AS place, at FROM mending_history
        WHERE queue = '{queue}' ORDER BY id LIMIT %(rows)s
    ), gone AS (
        DELETE FROM mending_history WHERE ctid = ANY (ARRAY(
            SELECT place FROM oldest WHERE at < now() - make_interval(secs => %(age_seconds)s)))
        RETURNING 1
    )
    SELECT count(*) FROM gone
    """

    async def trim_history(self, age_seconds: float, rows: int) -> int:
        """Forget at most `rows` rows mended longer ago; how many it was."""
        return await self._trim(self.TRIM_HISTORY, age_seconds, rows)

    async def _trim(self, template: str, age_seconds: float, rows: int) -> int:
        parameters = {"age_seconds": age_seconds, "rows": rows}
        rows_gone = await self._statements.fetch_tuples(template, parameters)
        return int(str(rows_gone[0][0]))
