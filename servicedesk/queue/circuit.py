"""A circuit per receiver: open while the far side is away, probed with growing pauses.

While open, nothing is sent. A probe that succeeds half-opens it: one row is sent, and its fate
closes or re-opens the circuit. Source: M. Nygard, "Release It!", 2nd ed., 5.2 (Circuit Breaker).
"""

from collections.abc import Callable

from servicedesk.backoff import Backoff


class Circuit:
    """`now` is a monotonic clock in seconds, `random` a number in [0, 1)."""

    def __init__(
        self, backoff: Backoff, now: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self._backoff = backoff
        self._now = now
        self._random = random
        self._failures = 0
        self.error: str | None = None
        self.is_open = False
        self.is_half_open = False
        self.probe_at = 0.0

    @property
    def is_closed(self) -> bool:
        return not self.is_open and not self.is_half_open

    def most_under_way(self, usual: int) -> int:
        """How many rows may be under way at once, where `usual` may as long as all is well."""
        if self.is_open:
            return 0
        return 1 if self.is_half_open else usual

    def trip(self, error: str) -> bool:
        """The far side did not answer; returns True when this opened a closed circuit.

        Answers to sends from before the trip do not make the pause longer.
        """
        self.error = error
        if self.is_open:
            return False
        opened = not self.is_half_open
        self.is_open, self.is_half_open = True, False
        self._failures += 1
        self.probe_at = self._now() + self._backoff.delay_seconds(self._failures, self._random)
        return opened

    def probed(self, *, reachable: bool) -> None:
        if reachable:
            self.is_open, self.is_half_open = False, True
        else:
            self._failures += 1
            pause = self._backoff.delay_seconds(self._failures, self._random)
            self.probe_at = self._now() + pause

    def answered(self) -> bool:
        """The far side took or refused a row, so it is there; returns True when this closed it."""
        if self.is_open:
            return False
        closed = self.is_half_open
        self.is_half_open = False
        self._failures = 0
        self.error = None
        return closed
