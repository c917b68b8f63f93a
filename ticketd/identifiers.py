"""Identifiers: UUIDv7, strictly increasing within a process also when the clock steps back.

Source: RFC 9562, 5.7, and 6.2 method 3 (the 12 bits after the millisecond are its fraction).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, SafeUUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
MILLISECONDS_END = 1 << 48
FRACTION = 4096
LOWEST = UUID(int=0)
HIGHEST = UUID(int=(1 << 128) - 1)

_VERSION_7 = 7 << 76
_VARIANT = 0b10 << 62
_RANDOM = (1 << 62) - 1


_set_int = UUID.int.__set__  # type: ignore[attr-defined,misc]  # a slot, which the stubs do not show
_set_is_safe = UUID.is_safe.__set__  # type: ignore[attr-defined,misc]


def uuid_of(value: int) -> UUID:
    """UUID(int=value) of a value known to be in range, in less time: the two slots are set past the
    class's own checks and its own ban on setting them. A test compares the two."""
    found: UUID = object.__new__(UUID)
    _set_int(found, value)
    _set_is_safe(found, SafeUUID.unknown)
    return found


class IdentifierSource:
    """Makes ids from a clock in nanoseconds since 1970 and a source of random bytes."""

    __slots__ = ("_last", "_now_ns", "_random_bytes")

    def __init__(self, now_ns: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        self._now_ns = now_ns
        self._random_bytes = random_bytes
        self._last = 0

    def next(self) -> UUID:
        ticks = self._now_ns() * FRACTION // 1_000_000
        if ticks <= self._last:
            ticks = self._last + 1
        self._last = ticks
        random = int.from_bytes(self._random_bytes(8), "big") & _RANDOM
        head = (ticks >> 12) << 80 | _VERSION_7 | (ticks & 0xFFF) << 64
        return uuid_of(head | _VARIANT | random)


def moment_of(identifier: UUID) -> datetime:
    """The millisecond that a UUIDv7 was made in."""
    return EPOCH + timedelta(milliseconds=identifier.int >> 80)


def first_after(moment: datetime) -> UUID:
    """The lowest id whose millisecond is later than `moment`."""
    return _first_of((moment - EPOCH) // MILLISECOND + 1)


def first_not_before(moment: datetime) -> UUID:
    """The lowest id whose millisecond is `moment` or later."""
    return _first_of(-((EPOCH - moment) // MILLISECOND))


def _first_of(millisecond: int) -> UUID:
    if millisecond >= MILLISECONDS_END:
        return HIGHEST
    return UUID(int=max(millisecond, 0) << 80)
