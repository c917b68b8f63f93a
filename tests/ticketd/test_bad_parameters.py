"""Bad parameters, paths and preconditions get a 4xx problem that says which and why, never a 500.

The requests go over a socket as bytes, to a live server on PostgreSQL.
"""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from deploy.local.postgres import Postgres
from tests.support.processes import Daemon
from tests.support.raw_http import exchange, request_bytes
from tests.ticketd.live import JSON, assert_problem, create, live_server, new_ticket

UNKNOWN_ID = "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"


@pytest.fixture(scope="module")
def server(shared_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with live_server(shared_postgres, tmp_path_factory.mktemp("ticketd")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ticket(server: Daemon) -> str:
    return new_ticket(server)


WRONG_QUERIES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "unknown parameter": ("page=2", [("page", "unknown_parameter")]),
    "unknown and wrong": (
        "offset=1&limit=0",
        [("offset", "unknown_parameter"), ("limit", "out_of_range")],
    ),
    "repeated": ("limit=1&limit=1", [("limit", "repeated_parameter")]),
    "repeated filter": ("status=new&status=closed", [("status", "repeated_parameter")]),
    "limit 0": ("limit=0", [("limit", "out_of_range")]),
    "limit 201": ("limit=201", [("limit", "out_of_range")]),
    "limit -1": ("limit=-1", [("limit", "out_of_range")]),
    "limit 1.5": ("limit=1.5", [("limit", "out_of_range")]),
    "limit empty": ("limit=", [("limit", "out_of_range")]),
    "limit Arabic": ("limit=%D9%A3", [("limit", "out_of_range")]),
    "limit huge": ("limit=" + "9" * 5000, [("limit", "out_of_range")]),
    "status": ("status=open", [("status", "unknown_value")]),
    "priority": ("priority=", [("priority", "unknown_value")]),
    "assignee empty": ("assignee=", [("assignee", "too_short")]),
    "assignee NUL": ("assignee=%00", [("assignee", "nul_character")]),
    "assignee long": ("assignee=" + "x" * 201, [("assignee", "too_long")]),
    "not UTF-8": ("assignee=%ff", [("query", "malformed_query")]),
    "lone surrogate": ("assignee=%ED%A0%80", [("query", "malformed_query")]),
    "time": ("created_after=yesterday", [("created_after", "invalid_time")]),
    "date": ("created_before=2026-01-15", [("created_before", "invalid_time")]),
    "no offset": ("created_after=2026-01-15T08:00:00", [("created_after", "invalid_time")]),
    "30 February": ("created_after=2026-02-30T08:00:00Z", [("created_after", "invalid_time")]),
    "cursor empty": ("cursor=", [("cursor", "too_short")]),
    "cursor garbage": ("cursor=abc", [("cursor", "invalid_cursor")]),
    "cursor of 43": ("cursor=" + "A" * 43, [("cursor", "invalid_cursor")]),
    "cursor long": ("cursor=" + "A" * 5000, [("cursor", "too_long")]),
    "cursor Cyrillic": ("cursor=%D0%AF", [("cursor", "invalid_cursor")]),
    "cursor NUL": ("cursor=%00", [("cursor", "nul_character")]),
}


@pytest.mark.parametrize(("query", "fields"), WRONG_QUERIES.values(), ids=WRONG_QUERIES)
def test_wrong_query_names_its_parameters(
    server: Daemon, query: str, fields: list[tuple[str, str]]
) -> None:
    answer = exchange(server.url, request_bytes("GET", f"/tickets?{query}", []))
    assert_problem(answer, 400, "validation_failed", *fields)


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z"],
)
@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_moment_at_the_end_of_the_calendar_is_answered(
    server: Daemon, name: str, moment: str
) -> None:
    answer = exchange(server.url, request_bytes("GET", f"/tickets?{name}={moment}", []))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_unknown_parameter_is_refused_on_every_route(
    server: Daemon, ticket: str, method: str
) -> None:
    target = "/tickets" if method == "POST" else ticket
    request = request_bytes(method, f"{target}?force=1", [*JSON, ("If-Match", "*")], b"{}")
    assert_problem(
        exchange(server.url, request), 400, "validation_failed", ("force", "unknown_parameter")
    )


def test_forged_cursor_and_cursor_of_other_filters_are_refused(server: Daemon) -> None:
    for _ in range(2):
        assert create(server, b'{"title": "a", "requester": "b"}').status == 201
    page = exchange(server.url, request_bytes("GET", "/tickets?limit=1", []))
    cursor: str = page.json()["next_cursor"]
    forged = [cursor[:place] + ("B" if cursor[place] == "A" else "A") + cursor[place + 1 :]
              for place in range(len(cursor))]  # fmt: skip
    for query in [f"cursor={each}" for each in forged] + [f"cursor={cursor}&status=new"]:
        answer = exchange(server.url, request_bytes("GET", f"/tickets?limit=1&{query}", []))
        assert_problem(answer, 400, "validation_failed", ("cursor", "invalid_cursor"))
    genuine = request_bytes("GET", f"/tickets?limit=1&cursor={cursor}", [])
    assert exchange(server.url, genuine).status == 200


BAD_IDS = ["1", "none", UNKNOWN_ID[:-1], UNKNOWN_ID + "0", UNKNOWN_ID.replace("-", ""),
           f"%7B{UNKNOWN_ID}%7D", "%00", "%ff", "%D0%AF", "..", "x" * 5000]  # fmt: skip


@pytest.mark.parametrize("identifier", BAD_IDS)
@pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("PATCH", ""), ("POST", "/close")])
def test_bad_uuid_is_400_and_named(server: Daemon, method: str, tail: str, identifier: str) -> None:
    headers = [*JSON, ("If-Match", "*")]
    request = request_bytes(method, f"/tickets/{identifier}{tail}", headers, b'{"title": "a"}')
    assert_problem(exchange(server.url, request), 400, "validation_failed", ("id", "invalid_uuid"))


def test_uuid_of_no_ticket_is_404(server: Daemon) -> None:
    for identifier in (UNKNOWN_ID, UNKNOWN_ID.upper(), str(uuid4())):
        answer = exchange(server.url, request_bytes("GET", f"/tickets/{identifier}", []))
        assert_problem(answer, 404, "not_found")


@pytest.mark.parametrize("value", ["1", "", '"1', '"1" "2"', "W/1", b'"1"\xff', "*, *"])
def test_malformed_if_match_is_400_and_named(
    server: Daemon, ticket: str, value: str | bytes
) -> None:
    request = request_bytes("PATCH", ticket, [*JSON, ("If-Match", value)], b'{"title": "b"}')
    assert_problem(
        exchange(server.url, request), 400, "validation_failed", ("If-Match", "malformed_header")
    )


@pytest.mark.parametrize("value", ['"2"', 'W/"1"', '"999999999999999999999999"', '"я"'])
def test_other_version_is_412(server: Daemon, ticket: str, value: str) -> None:
    headers = [*JSON, ("If-Match", value.encode())]
    request = request_bytes("PATCH", ticket, headers, b'{"title": "b"}')
    assert_problem(exchange(server.url, request), 412, "version_mismatch")


def test_missing_if_match_is_428(server: Daemon, ticket: str) -> None:
    request = request_bytes("PATCH", ticket, JSON, b'{"title": "b"}')
    assert_problem(exchange(server.url, request), 428, "if_match_required")


@pytest.mark.parametrize("path", ["/", "/ticket", "/tickets/", "//tickets", "/%00", "/tickets/x/y"])
def test_unknown_path_is_404(server: Daemon, path: str) -> None:
    assert_problem(exchange(server.url, request_bytes("GET", path, [])), 404, "not_found")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "OPTIONS", "TRACE", "BREW", "x" * 100])
def test_unknown_method_is_405_with_those_allowed(server: Daemon, method: str) -> None:
    answer = exchange(server.url, request_bytes(method, f"/tickets/{UNKNOWN_ID}", []))
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, PATCH"
