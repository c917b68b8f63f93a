"""Correlation: what of the caller's request id and trace is taken over (W3C Trace Context)."""

import re

import orjson
import pytest

from servicedesk.correlation import (
    continue_trace,
    correlation_headers,
    sane_request_id,
    sane_traceparent,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def ones(size: int) -> bytes:
    return b"\x11" * size


NEW = f"00-{'11' * 16}-{'11' * 8}-00"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "01"),
        (f"00-{TRACE}-{PARENT}-fe", "00"),
        (f"cc-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", "01"),
        (f"cc-{TRACE}-{PARENT}-01-", "01"),
    ],
)
def test_valid_trace_is_continued_with_a_span_of_our_own(value: str, flags: str) -> None:
    assert continue_trace(value, ones) == f"00-{TRACE}-{'11' * 8}-{flags}"


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-0X",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}a-{PARENT}-01",
        f"00-{TRACE}-{PARENT[1:]}-01",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-01,00-{TRACE}-{PARENT}-01",
    ],
)
def test_invalid_trace_starts_a_new_one(value: str | None) -> None:
    assert continue_trace(value, ones) == NEW


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01"),
        (f"cc-{TRACE}-{PARENT}-01-\rEvil", f"00-{TRACE}-{PARENT}-01"),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"00-{TRACE}-{PARENT}-01-\x00", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        ("", None),
    ],
)
def test_trace_of_a_record_is_passed_on_only_when_valid_and_without_what_follows(
    value: str, taken: str | None
) -> None:
    assert sane_traceparent(value) == taken


@pytest.mark.parametrize("value", ["a", "helpdesk-7f3a", "!~", "x" * 128])
def test_sane_request_id_is_taken_over(value: str) -> None:
    assert sane_request_id(value) == value


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "a\x00", "x" * 129, "заявка", "\x7f", "a\tb"]
)
def test_insane_request_id_is_not_taken_over(value: str) -> None:
    assert sane_request_id(value) is None


def test_headers_of_an_outbox_row_are_json() -> None:
    text = correlation_headers('say "hello"', NEW).decode()
    assert orjson.loads(text) == {"request_id": 'say "hello"', "traceparent": NEW}
    assert re.fullmatch(r"\{.*\}", text)
