"""Which rows a command is about: event ids, keys, an error class and a span of time, all of which
have to hold. What is not named does not narrow."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from servicedesk.environment import DURATION, UNIT_SECONDS
from servicedesk.event import read_moment

ERROR_SEPARATOR = ": "


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`error` is the class of an error, the part before ": "; `since` is in, `until` is out."""

    event_ids: tuple[UUID, ...] = ()
    keys: tuple[str, ...] = ()
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def is_everything(self) -> bool:
        return not (self.event_ids or self.keys or self.error or self.since or self.until)

    def parameters(self) -> dict[str, object]:
        """For the conditions that `selected` puts into a statement; NULL does not narrow."""
        return {
            "event_ids": list(self.event_ids) or None,
            "keys": list(self.keys) or None,
            "error": self.error,
            "since": self.since,
            "until": self.until,
        }

    def holds(
        self, *, event_id: UUID | None, key: str | None, error: str, failed_at: datetime
    ) -> bool:
        """The same, of what is not in the database."""
        return (
            (not self.event_ids or event_id in self.event_ids)
            and (not self.keys or key in self.keys)
            and (self.error is None or error.partition(ERROR_SEPARATOR)[0] == self.error)
            and (self.since is None or failed_at >= self.since)
            and (self.until is None or failed_at < self.until)
        )


def selected(statement: str, condition: str) -> str:
    """The statement with the condition in place of {selected}; both are constants."""
    return statement.replace("{selected}", condition)


def moment(text: str, now: Callable[[], datetime]) -> datetime:
    """A time in RFC 3339, or how long ago as a duration such as 2h. Raises ValueError."""
    duration = DURATION.fullmatch(text)
    try:
        if duration:
            return now() - timedelta(seconds=float(duration[1]) * UNIT_SECONDS[duration[2]])
        return read_moment(text)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"{text!r} is no time; it takes one such as 2026-01-31T08:00:00Z, or how long ago as "
        "30s, 5m or 24h"
    )
