"""UUIDv7 identifiers."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from ticketd.identifiers import (
    HIGHEST,
    LOWEST,
    IdentifierSource,
    first_after,
    first_not_before,
    moment_of,
    uuid_of,
)

# 2026-01-15T08:00:00.123456789Z
NOW_NS = 1_768_464_000_123_456_789


def zeros(size: int) -> bytes:
    return bytes(size)


def test_identifier_is_a_uuid_of_version_7_with_its_millisecond() -> None:
    made = IdentifierSource(lambda: NOW_NS, lambda size: b"\xff" * size).next()
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert moment_of(made) == datetime(2026, 1, 15, 8, 0, 0, 123_000, UTC)


def test_identifiers_increase_although_the_clock_stands_still_or_steps_back() -> None:
    clock = iter([NOW_NS] * 5000 + [NOW_NS - 10**9] * 5000 + [NOW_NS + 10**9])
    source = IdentifierSource(lambda: next(clock), zeros)
    made = [source.next() for _ in range(10_001)]
    assert made == sorted(set(made))
    assert moment_of(made[-1]) == datetime(2026, 1, 15, 8, 0, 1, 123_000, UTC)


def test_identifiers_of_one_millisecond_are_in_order_of_time() -> None:
    earlier = IdentifierSource(lambda: NOW_NS, lambda size: b"\xff" * size).next()
    later = IdentifierSource(lambda: NOW_NS + 1_000, zeros).next()
    assert moment_of(earlier) == moment_of(later)
    assert earlier < later


def test_bounds_surround_exactly_the_identifiers_of_a_millisecond() -> None:
    made = IdentifierSource(lambda: NOW_NS, zeros).next()
    moment = moment_of(made)
    instant = timedelta(microseconds=1)
    assert first_after(moment - instant) <= made < first_after(moment)
    assert first_not_before(moment) <= made < first_not_before(moment + instant)


def test_bounds_outside_of_all_time_are_the_ends() -> None:
    assert first_after(datetime(1, 1, 1, tzinfo=UTC)) == LOWEST
    assert first_not_before(datetime(9999, 12, 31, tzinfo=UTC)) < HIGHEST


def test_quick_uuid_is_the_same_as_the_thorough_one() -> None:
    for value in (0, 1, 0x019A8F6E53C47D119C1E5F0A4B7F2D10, (1 << 128) - 1):
        quick, thorough = uuid_of(value), UUID(int=value)
        assert quick == thorough
        assert hash(quick) == hash(thorough)
        assert (str(quick), quick.bytes, quick.is_safe) == (
            str(thorough),
            thorough.bytes,
            thorough.is_safe,
        )
