"""The API from the outside, on both stores, in the test's own process."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import httpx
import orjson
import psycopg
import pytest

from servicedesk.event import rfc3339
from tests.ticketd.application import NEW, Running, running
from ticketd.app import CONTRACT

Environment = dict[str, str]


def on_app(environment: Environment, act: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(environment) as app:
            await act(app)

    asyncio.run(run())


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_created_ticket_is_answered_and_can_be_read(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        answer = await app.client.post("/tickets", json=NEW)
        ticket = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/tickets/{ticket['id']}"
        assert answer.headers["etag"] == '"1"'
        assert ticket == NEW | {
            "id": ticket["id"],
            "description": "",
            "status": "new",
            "priority": "normal",
            "assignee": None,
            "version": 1,
            "created_at": ticket["created_at"],
            "updated_at": ticket["created_at"],
            "closed_at": None,
        }
        created_at = datetime.fromisoformat(ticket["created_at"])
        assert rfc3339(created_at) == ticket["created_at"]
        assert int(created_at.timestamp() * 1000) == int(ticket["id"].replace("-", "")[:12], 16)
        found = await app.client.get(answer.headers["location"])
        assert (found.status_code, found.content) == (200, answer.content)
        assert found.headers["etag"] == '"1"'

    on_app(store_environment, act)


def test_every_wrong_member_is_named_at_once(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        body = {"title": "x" * 201, "priority": "soon", "assignee": 7, "приоритет": 1}
        answer = await app.client.post("/tickets", json=body)
        assert code(answer) == (400, "validation_failed")
        problem = answer.json()
        assert {(e["field"], e["code"]) for e in problem["errors"]} == {
            ("requester", "required"),
            ("title", "too_long"),
            ("priority", "unknown_value"),
            ("assignee", "wrong_type"),
            ("приоритет", "unknown_field"),
        }
        assert problem["detail"] == "5 fields are wrong"
        assert problem["instance"] == "/tickets"
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["cache-control"] == "no-store"

    on_app(store_environment, act)


def test_patch_changes_what_it_names_and_no_more(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create(assignee="Олег", description="д")
        answer = await app.patch(ticket, '"1"', title="Иначе", assignee=None)
        assert answer.status_code == 200
        assert answer.headers["etag"] == '"2"'
        changed = answer.json()
        updated_at = changed["updated_at"]
        assert updated_at > ticket["updated_at"]
        assert changed == ticket | {
            "title": "Иначе",
            "assignee": None,
            "version": 2,
            "updated_at": updated_at,
        }
        again = await app.patch(ticket, '"2"', title="Иначе")
        assert (again.status_code, again.json()) == (200, changed)

    on_app(store_environment, act)


def test_patch_needs_the_version_it_was_made_against(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        path = f"/tickets/{ticket['id']}"
        missing = await app.client.patch(path, json={"title": "б"})
        assert code(missing) == (428, "if_match_required")
        assert code(await app.patch(ticket, '"2"', title="б")) == (412, "version_mismatch")
        assert code(await app.patch(ticket, 'W/"1"', title="б")) == (412, "version_mismatch")
        malformed = await app.patch(ticket, "1", title="б")
        assert code(malformed) == (400, "validation_failed")
        assert malformed.json()["errors"][0]["field"] == "If-Match"
        assert (await app.client.get(path)).json() == ticket
        assert (await app.patch(ticket, '"7", "1"', title="б")).status_code == 200
        assert (await app.patch(ticket, "*", title="в")).status_code == 200

    on_app(store_environment, act)


def test_patch_without_if_match_can_be_allowed() -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        answer = await app.client.patch(f"/tickets/{ticket['id']}", json={"title": "б"})
        assert answer.json()["version"] == 2

    on_app({"TICKETD_REQUIRE_IF_MATCH": "false"}, act)


def test_status_follows_the_transitions(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        refused = await app.patch(ticket, status="resolved")
        assert code(refused) == (409, "transition_forbidden")
        assert refused.json()["errors"][0]["message"] == "new may become: in_progress, closed"
        for status in ("in_progress", "resolved", "closed", "in_progress"):
            answer = await app.patch(ticket, status=status)
            assert answer.status_code == 200
            assert (answer.json()["closed_at"] is not None) == (status == "closed")

    on_app(store_environment, act)


def test_close_is_refused_for_a_closed_ticket(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        path = f"/tickets/{(await app.create())['id']}/close"
        stale = await app.client.post(path, headers={"if-match": '"2"'})
        assert code(stale) == (412, "version_mismatch")
        closed = await app.client.post(path, json={"reason": "Починено"})
        assert closed.json()["status"] == "closed"
        assert closed.json()["closed_at"] == closed.json()["updated_at"]
        again = await app.client.post(path)
        assert code(again) == (409, "transition_forbidden")
        assert "in_progress" in again.json()["detail"]

    on_app(store_environment, act)


def test_reason_for_closing_travels_with_the_event(database_url: str) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        closed = await app.client.post(
            f"/tickets/{ticket['id']}/close",
            json={"reason": "Починено"},
            headers={
                "x-request-id": "справка".encode().hex(),
                "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
            },
        )
        with psycopg.connect(database_url) as connection:
            found = connection.execute(
                "SELECT payload, headers FROM outbox WHERE sequence = 2"
            ).fetchall()
        payload, headers = (orjson.loads(text) for text in found[0])
        assert payload == closed.json() | {"reason": "Починено"}
        assert headers["request_id"] == "справка".encode().hex()
        assert headers["traceparent"][:36] == f"00-{'a' * 32}-"

    on_app({"DATABASE_URL": database_url}, act)


def test_unchanged_ticket_is_not_sent_again(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        path = f"/tickets/{(await app.create())['id']}"
        for tags in ('"1"', 'W/"1"', '"5", "1"', "*"):
            answer = await app.client.get(path, headers={"if-none-match": tags})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == '"1"'
            assert "content-type" not in answer.headers
        for tags in ('"2"', "nonsense", '"01"'):
            answer = await app.client.get(path, headers={"if-none-match": tags})
            assert answer.status_code == 200

    on_app(store_environment, act)


def test_list_pages_by_cursor(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        made = [(await app.create(priority="high"))["id"] for _ in range(5)]
        await app.create()
        seen: list[str] = []
        parameters = {"priority": "high", "limit": "2"}
        while True:
            page = (await app.client.get("/tickets", params=parameters)).json()
            seen += [ticket["id"] for ticket in page["items"]]
            if page["next_cursor"] is None:
                break
            await app.create(priority="high")
            parameters["cursor"] = page["next_cursor"]
        assert seen == made[::-1]

    on_app(store_environment, act)


def test_cursor_fits_only_its_filters(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        for _ in range(3):
            await app.create()
        first = await app.client.get("/tickets", params={"limit": "1", "status": "new"})
        cursor = first.json()["next_cursor"]
        assert (
            await app.client.get("/tickets", params={"cursor": cursor, "status": "new"})
        ).status_code == 200
        for wrong in (
            {"cursor": cursor},
            {"cursor": cursor, "status": "closed"},
            {"cursor": cursor[:-1] + ("A" if cursor[-1] != "A" else "B"), "status": "new"},
            {"cursor": cursor + "=", "status": "new"},
            {"cursor": "я", "status": "new"},
        ):
            answer = await app.client.get("/tickets", params=wrong)
            assert code(answer) == (400, "validation_failed")
            assert answer.json()["errors"][0]["code"] == "invalid_cursor"

    on_app(store_environment, act)


def test_created_bounds_understand_offsets(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        year = int(ticket["created_at"][:4])
        for parameters, found in (
            ({"created_after": f"{year - 1}-01-01T00:00:00+03:00"}, [ticket]),
            ({"created_before": f"{year + 2}-01-01T00:00:00.5Z"}, [ticket]),
            ({"created_after": ticket["created_at"]}, []),
            ({"created_before": ticket["created_at"]}, []),
            ({"created_after": "0001-01-01T00:00:00+14:00"}, [ticket]),
            ({"created_before": "9999-12-31T23:59:59-12:00"}, [ticket]),
        ):
            answer = await app.client.get("/tickets", params=parameters)
            assert answer.json()["items"] == found, parameters

    on_app(store_environment, act)


def test_wrong_parameters_are_all_named() -> None:
    async def act(app: Running) -> None:
        answer = await app.client.get(
            "/tickets?limit=201&status=open&assignee=%00&created_after=yesterday&page=2"
            "&priority=low&priority=high"
        )
        assert code(answer) == (400, "validation_failed")
        assert {(e["field"], e["code"]) for e in answer.json()["errors"]} == {
            ("limit", "out_of_range"),
            ("status", "unknown_value"),
            ("assignee", "nul_character"),
            ("created_after", "invalid_time"),
            ("page", "unknown_parameter"),
            ("priority", "repeated_parameter"),
        }
        for query in ("%ff", "a=%d1", "&".join(f"p{n}=1" for n in range(60))):
            answer = await app.client.get(f"/tickets?{query}")
            assert code(answer) == (400, "validation_failed")
        ticket = await app.create()
        answer = await app.client.get(f"/tickets/{ticket['id']}?fields=id")
        assert answer.json()["errors"][0]["code"] == "unknown_parameter"

    on_app({}, act)


@pytest.mark.parametrize(
    ("path", "answered"),
    [
        ("/tickets/42", (400, "validation_failed")),
        ("/tickets/019a8f6e_53c4-7d11-9c1e-5f0a4b7f2d10", (400, "validation_failed")),
        ("/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10", (404, "not_found")),
        ("/tickets/", (404, "not_found")),
        ("/tickets/a/b/c", (404, "not_found")),
        ("/ticket", (404, "not_found")),
        ("/", (404, "not_found")),
        ("/tickets/{id}", (400, "validation_failed")),
    ],
)
def test_wrong_paths_are_problems(path: str, answered: tuple[int, str]) -> None:
    async def act(app: Running) -> None:
        assert code(await app.client.get(path)) == answered

    on_app({}, act)


def test_other_methods_are_refused_with_what_is_allowed() -> None:
    async def act(app: Running) -> None:
        for method, path, allowed in (
            ("DELETE", "/tickets", "GET, HEAD, POST"),
            ("OPTIONS", "/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10", "GET, HEAD, PATCH"),
            ("GET", "/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10/close", "POST"),
            ("BREW", "/healthz", "GET, HEAD"),
        ):
            answer = await app.client.request(method, path)
            assert code(answer) == (405, "method_not_allowed")
            assert answer.headers["allow"] == allowed

    on_app({}, act)


def test_head_is_get_without_the_body(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        path = f"/tickets/{(await app.create())['id']}"
        for url in (path, "/tickets", "/healthz", "/openapi.yaml"):
            found, head = await app.client.get(url), await app.client.head(url)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(found.content))

    on_app(store_environment, act)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ('Application/JSON;charset="UTF-8"', 201),
        ("application/json; charset=koi8-r", 415),
        ("application/merge-patch+json", 415),
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_create_reads_json_only(content_type: str, status: int) -> None:
    async def act(app: Running) -> None:
        answer = await app.client.post(
            "/tickets", content=orjson.dumps(NEW), headers={"content-type": content_type}
        )
        assert answer.status_code == status

    on_app({}, act)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"title": "x", "requester": "y"',
        b"[]",
        b"null",
        b'{"title": NaN}',
        b'{"title": "\\ud800", "requester": "y"}',
        b'{"title": "\xff", "requester": "y"}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_json_object_is_malformed(body: bytes) -> None:
    async def act(app: Running) -> None:
        headers = {"content-type": "application/json"}
        answer = await app.client.post("/tickets", content=body, headers=headers)
        assert code(answer) == (400, "malformed_json")

    on_app({}, act)


def test_of_repeated_members_the_last_one_counts() -> None:
    async def act(app: Running) -> None:
        body = b'{"title": "one", "requester": "y", "title": "two"}'
        headers = {"content-type": "application/json"}
        answer = await app.client.post("/tickets", content=body, headers=headers)
        assert answer.json()["title"] == "two"

    on_app({}, act)


def test_request_id_is_echoed_when_sane_and_made_otherwise() -> None:
    async def act(app: Running) -> None:
        for given, echoed in (("abc-1", True), ("x" * 128, True), ("x" * 129, False)):
            answer = await app.client.get("/tickets", headers={"x-request-id": given})
            assert (answer.headers["x-request-id"] == given) == echoed
            assert answer.headers["x-request-id"]

    on_app({}, act)


def test_contract_is_served_as_it_is() -> None:
    async def act(app: Running) -> None:
        answer = await app.client.get("/openapi.yaml")
        assert answer.headers["content-type"] == "application/yaml"
        assert answer.content == CONTRACT.read_bytes()

    on_app({}, act)


def test_every_answer_forbids_sniffing(store_environment: Environment) -> None:
    async def act(app: Running) -> None:
        path = f"/tickets/{(await app.create())['id']}"
        for url in (path, "/tickets", "/nowhere", "/readyz", "/metrics", "/openapi.yaml"):
            answer = await app.client.get(url)
            assert answer.headers["x-content-type-options"] == "nosniff"

    on_app(store_environment, act)
