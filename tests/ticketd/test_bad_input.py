"""Bad bodies and headers get a 4xx problem that says which field and why, never a 500.

The requests go over a socket as bytes, to a live server on PostgreSQL.
"""

from collections.abc import Iterator

import pytest

from deploy.local.postgres import Postgres
from tests.support.processes import Daemon
from tests.support.raw_http import exchange, request_bytes
from tests.ticketd.live import JSON, assert_problem, create, live_server, new_ticket

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def server(shared_postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with live_server(shared_postgres, tmp_path_factory.mktemp("ticketd")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ticket(server: Daemon) -> str:
    return new_ticket(server)


MALFORMED_JSON = {
    "empty": b"",
    "truncated": b'{"title": "a", "requester": "b',
    "trailing comma": b'{"title": "a", "requester": "b",}',
    "two documents": b'{"title": "a", "requester": "b"} {}',
    "single quotes": b"{'title': 'a', 'requester': 'b'}",
    "NaN": b'{"title": NaN, "requester": "b"}',
    "control character": b'{"title": "a\x01", "requester": "b"}',
    "raw NUL": b'{"title": "a\x00", "requester": "b"}',
    "lone surrogate": rb'{"title": "\ud800", "requester": "b"}',
    "reversed surrogates": rb'{"title": "\udc00\ud800", "requester": "b"}',
    "surrogate in UTF-8": b'{"title": "\xed\xa0\x80", "requester": "b"}',
    "invalid UTF-8": b'{"title": "\xff", "requester": "b"}',
    "UTF-16": '{"title": "a", "requester": "b"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"title": "a", "requester": "b"}',
    "nested without end": b"[" * 100_000,
    "array": b"[]",
    "string": b'"title"',
    "null": b"null",
    "number of 100,000 digits": b"1" * 100_000,
}


@pytest.mark.parametrize("body", MALFORMED_JSON.values(), ids=MALFORMED_JSON)
def test_malformed_json_is_400(server: Daemon, body: bytes) -> None:
    assert_problem(create(server, body), 400, "malformed_json")


@pytest.mark.parametrize("body", [b"[]", b"{", b'"status"'])
def test_malformed_json_of_a_patch_and_of_a_close_is_400(
    server: Daemon, ticket: str, body: bytes
) -> None:
    patch = request_bytes("PATCH", ticket, [*JSON, ("If-Match", '"1"')], body)
    assert_problem(exchange(server.url, patch), 400, "malformed_json")
    close = request_bytes("POST", f"{ticket}/close", JSON, body)
    assert_problem(exchange(server.url, close), 400, "malformed_json")


WRONG_MEMBERS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "number": (b'{"title": 7, "requester": "b"}', [("title", "wrong_type")]),
    "null": (b'{"title": null, "requester": "b"}', [("title", "wrong_type")]),
    "array": (b'{"title": ["a"], "requester": "b"}', [("title", "wrong_type")]),
    "boolean assignee": (
        b'{"title": "a", "requester": "b", "assignee": false}',
        [("assignee", "wrong_type")],
    ),
    "priority in capitals": (
        b'{"title": "a", "requester": "b", "priority": "HIGH"}',
        [("priority", "unknown_value")],
    ),
    "escaped NUL": (rb'{"title": "a\u0000", "requester": "b"}', [("title", "nul_character")]),
    "NUL everywhere": (
        rb'{"title":"\u0000","requester":"\u0000","assignee":"\u0000","description":"\u0000"}',
        [(name, "nul_character") for name in ("title", "requester", "assignee", "description")],
    ),
    "unknown member": (
        '{"title": "a", "requester": "b", "приоритет": 1}'.encode(),
        [("приоритет", "unknown_field")],
    ),
    "NUL in the name of a member": (
        rb'{"title": "a", "requester": "b", "\u0000": 1}',
        [("\x00", "unknown_field")],
    ),
    "status of a new ticket": (
        b'{"title": "a", "requester": "b", "status": "closed"}',
        [("status", "unknown_field")],
    ),
    "empty": (b'{"title": "", "requester": "b"}', [("title", "too_short")]),
    "201 characters": (
        b'{"title": "%s", "requester": "b"}' % ("я" * 201).encode(),
        [("title", "too_long")],
    ),
    "5,001 characters": (
        b'{"title": "a", "requester": "b", "description": "%s"}' % (b"x" * 5001),
        [("description", "too_long")],
    ),
    "40 unknown members": (
        b'{"title": "a", "requester": "b", %s}' % b",".join(b'"%d": 1' % n for n in range(40)),
        [(str(number), "unknown_field") for number in range(40)],
    ),
    "20,000 unknown members": (
        b'{"title": "a", "requester": "b", %s}' % b",".join(b'"%d": 1' % n for n in range(20_000)),
        [("body", "too_many_members")],
    ),
    "all at once": (
        b'{"title": 1, "priority": "x", "extra": 2}',
        [
            ("title", "wrong_type"),
            ("priority", "unknown_value"),
            ("extra", "unknown_field"),
            ("requester", "required"),
        ],
    ),
}


@pytest.mark.parametrize(("body", "fields"), WRONG_MEMBERS.values(), ids=WRONG_MEMBERS)
def test_wrong_members_are_all_named(
    server: Daemon, body: bytes, fields: list[tuple[str, str]]
) -> None:
    assert_problem(create(server, body), 400, "validation_failed", *fields)


def test_200_characters_of_any_script_are_welcome(server: Daemon) -> None:
    for text in ("я" * 200, "🖨" * 200, "\u202eשלום" + "ש" * 195):
        assert create(server, f'{{"title": "{text}", "requester": "b"}}'.encode()).status == 201


WRONG_PATCHES = {
    "nothing": (b"{}", ("body", "required")),
    "null title": (b'{"title": null}', ("title", "wrong_type")),
    "null status": (b'{"status": null}', ("status", "wrong_type")),
    "unknown status": (b'{"status": "open"}', ("status", "unknown_value")),
    "requester": (b'{"requester": "c"}', ("requester", "unknown_field")),
    "version": (b'{"version": 9}', ("version", "unknown_field")),
    "NUL": (rb'{"assignee": "\u0000"}', ("assignee", "nul_character")),
}


@pytest.mark.parametrize(("body", "field"), WRONG_PATCHES.values(), ids=WRONG_PATCHES)
def test_wrong_patch_names_its_member(
    server: Daemon, ticket: str, body: bytes, field: tuple[str, str]
) -> None:
    request = request_bytes("PATCH", ticket, [*JSON, ("If-Match", '"1"')], body)
    assert_problem(exchange(server.url, request), 400, "validation_failed", field)


@pytest.mark.parametrize(
    ("body", "code"),
    [(rb'{"reason": "\u0000"}', "nul_character"), (b'{"reason": 1}', "wrong_type")],
)
def test_wrong_reason_of_a_close_is_named(
    server: Daemon, ticket: str, body: bytes, code: str
) -> None:
    answer = exchange(server.url, request_bytes("POST", f"{ticket}/close", JSON, body))
    assert_problem(answer, 400, "validation_failed", ("reason", code))


@pytest.mark.parametrize("size", [256 * 1024 + 1, 10 * MEBIBYTE])
def test_body_over_the_limit_is_413(server: Daemon, size: int) -> None:
    assert_problem(create(server, b" " * size), 413, "body_too_large")


def test_endless_body_without_a_length_is_413(server: Daemon) -> None:
    headers = [*JSON, ("Transfer-Encoding", "chunked")]
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    request = request_bytes("POST", "/tickets", headers) + chunk * 160
    assert_problem(exchange(server.url, request), 413, "body_too_large")


def test_body_of_exactly_the_limit_is_read(server: Daemon) -> None:
    body = b'{"title": "a", "requester": "b"}'
    assert create(server, body.ljust(256 * 1024)).status == 201


def test_body_that_ends_early_is_400(server: Daemon) -> None:
    headers = [*JSON, ("Content-Length", "1000")]
    request = request_bytes("POST", "/tickets", headers, b'{"title": "a"')
    answer = exchange(server.url, request, hang_up=True)
    assert_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/jsonp",
        b"application/\xff",
        "application/merge-patch+json",
    ],
)
def test_wrong_content_type_is_415(server: Daemon, content_type: str | bytes | None) -> None:
    headers = [] if content_type is None else [("Content-Type", content_type)]
    body = b'{"title": "a", "requester": "b"}'
    answer = exchange(server.url, request_bytes("POST", "/tickets", headers, body))
    assert_problem(answer, 415, "unsupported_media_type")
    assert answer.headers["accept"] == "application/json"


def test_charset_utf_8_may_be_said(server: Daemon) -> None:
    headers = [("Content-Type", 'Application/JSON; Charset="UTF-8"')]
    body = b'{"title": "a", "requester": "b"}'
    assert exchange(server.url, request_bytes("POST", "/tickets", headers, body)).status == 201


def test_overlong_header_is_431_and_is_named(server: Daemon) -> None:
    request = request_bytes("GET", "/tickets", [("Cookie", "x" * 20_000)])
    assert_problem(exchange(server.url, request), 431, "headers_too_large", ("cookie", "too_long"))


def test_many_small_headers_are_431(server: Daemon) -> None:
    headers = [(f"X-Header-{number}", "x" * 300) for number in range(80)]
    answer = exchange(server.url, request_bytes("GET", "/tickets", headers))
    assert (answer.status, answer.json()["code"]) == (431, "headers_too_large")


def test_header_that_the_server_does_not_even_read_is_refused(server: Daemon) -> None:
    # Refused by the HTTP parser, before there is a request that could have a problem.
    request = request_bytes("GET", "/tickets", [("Cookie", "x" * 10 * MEBIBYTE)])
    assert exchange(server.url, request).status == 431


@pytest.mark.parametrize("value", [b"x" * 129, b"a b", "заявка".encode(), b"\xff", b""])
def test_insane_request_id_is_replaced(server: Daemon, value: bytes) -> None:
    answer = exchange(server.url, request_bytes("GET", "/tickets", [("X-Request-Id", value)]))
    assert answer.status == 200
    assert answer.headers["x-request-id"].encode() != value
    assert len(answer.headers["x-request-id"]) == 32
