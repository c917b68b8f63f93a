"""Full-jitter exponential backoff.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits grow from `base_seconds` by doubling and are capped at `cap_seconds`."""

    base_seconds: float
    cap_seconds: float

    def delay_seconds(self, attempts: int, random: Callable[[], float]) -> float:
        """The wait after the `attempts`-th failure (1, 2, …): uniform in (0, ceiling].

        `random` returns a number in [0, 1).
        """
        ceiling = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempts - 1, 60))
        return ceiling * (1.0 - random())
