"""Is the database there, and does it have our schema? Asked again and again in the background.

The answer is readiness, and it refuses requests at once while there is no use in waiting.
"""

import asyncio
from collections.abc import Callable, Mapping

from servicedesk.admin import DEGRADED
from servicedesk.database import SchemaError
from servicedesk.logs import Log
from ticketd.errors import DatabaseUnavailableError
from ticketd.metrics import DatabaseState
from ticketd.store import TicketStore

CHECK_SECONDS = 3.0
POLL_SECONDS = 1.0
POLL_SECONDS_WHILE_AWAY = 0.25
# So many looks in a row must fail: requests outlive a lost connection, and so does readiness.
FAILURES_BEFORE_AWAY = 3


def storage_check(*, is_up: bool) -> str:
    """The S3 store as /readyz shows it: tickets do without."""
    return "ok" if is_up else f"{DEGRADED}attachments are refused until the store answers"


class Readiness:
    """What this worker knows of its database. `report` hears every state. `others` are checks of
    what tickets can do without."""

    def __init__(
        self,
        store: TicketStore,
        report: Callable[[DatabaseState], None],
        log: Log,
        others: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._store = store
        self._report = report
        self._log = log
        self._others = others
        self._reason = "not checked yet"
        self._failures = 0
        self._stopping = False

    @property
    def database_is_ready(self) -> bool:
        return self._reason == "ok"

    def checks(self) -> dict[str, str]:
        checks = {"database": self._reason, **self._others()}
        return checks | {"server": "stopping"} if self._stopping else checks

    def stop(self) -> None:
        self._stopping = True

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await self.refresh()
            well = self.database_is_ready and not self._failures
            await asyncio.sleep(POLL_SECONDS if well else POLL_SECONDS_WHILE_AWAY)

    async def refresh(self) -> None:
        state, reason = await self._look()
        self._failures = 0 if state is DatabaseState.OK else self._failures + 1
        if self.database_is_ready and 0 < self._failures < FAILURES_BEFORE_AWAY:
            return
        self._report(state)
        if reason == self._reason:
            return
        self._reason = reason
        if state is DatabaseState.OK:
            self._log.info("database_ready")
        else:
            self._log.warning("database_not_ready", reason=reason)

    async def _look(self) -> tuple[DatabaseState, str]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._store.check()
        except SchemaError as error:
            return DatabaseState.OUTDATED, str(error)
        except DatabaseUnavailableError as error:
            return DatabaseState.UNREACHABLE, f"unreachable: {type(error.__cause__).__name__}"
        except TimeoutError:
            return DatabaseState.UNREACHABLE, f"no answer within {CHECK_SECONDS:g} s"
        return DatabaseState.OK, "ok"
