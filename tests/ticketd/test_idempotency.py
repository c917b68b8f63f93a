"""Idempotency-Key over HTTP: a request is carried out once, and every repeat gets its answer."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.ticketd.application import NEW, Running, running

KEY = '"8e03978e-40d5-43dd-bc93-6894a57f9324"'
Act = Callable[[Running], Awaitable[None]]


def in_application(environment: Mapping[str, str], act: Act) -> None:
    async def run() -> None:
        async with running(environment) as app:
            await act(app)
            assert app.events("request_failed") == []

    asyncio.run(run())


async def create(app: Running, key: str | None = KEY, **members: object) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return await app.client.post("/tickets", json=NEW | members, headers=headers)


async def close(
    app: Running,
    ticket: Mapping[str, Any],
    key: str = KEY,
    *,
    reason: str = "готово",
    **headers: str,
) -> httpx.Response:
    headers = {"idempotency-key": key} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    path = f"/tickets/{ticket['id']}/close"
    return await app.client.post(path, json={"reason": reason}, headers=headers)


def assert_replays(answer: httpx.Response, first: httpx.Response) -> None:
    """The same answer, which says that it is a repeat."""
    assert "idempotency-replayed" not in first.headers
    assert answer.headers["idempotency-replayed"] == "true"
    own = ("idempotency-replayed", "x-request-id", "date")
    assert answer.status_code == first.status_code
    assert answer.content == first.content
    for headers in (answer.headers, first.headers):
        for name in own:
            headers.pop(name, None)
    assert answer.headers == first.headers


async def count(app: Running) -> int:
    return len((await app.client.get("/tickets")).json()["items"])


def test_repeated_creation_is_answered_as_the_first_also_after_a_change(
    store_environment: dict[str, str],
) -> None:
    async def act(app: Running) -> None:
        first = await create(app, assignee="Олег")
        await app.patch(first.json(), title="Иначе")
        assert_replays(await create(app, assignee="Олег"), first)
        assert await count(app) == 1

    in_application(store_environment, act)


def test_callers_at_once_with_one_key_make_one_ticket(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        answers = await asyncio.gather(*(create(app) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        replayed = [answer for answer in answers if "idempotency-replayed" in answer.headers]
        assert len(replayed) == 99
        assert await count(app) == 1

    in_application(store_environment, act)


def test_callers_at_once_with_many_keys_make_a_ticket_each(
    store_environment: dict[str, str],
) -> None:
    async def act(app: Running) -> None:
        keys = [f"k{number % 20}" for number in range(200)]
        answers = await asyncio.gather(*(create(app, key, title=key) for key in keys))
        by_key = {
            key: {a.content for a, k in zip(answers, keys, strict=True) if k == key} for key in keys
        }
        assert all(len(contents) == 1 for contents in by_key.values())
        assert await count(app) == 20

    in_application(store_environment, act)


def test_other_body_with_the_same_key_is_refused(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        await create(app)
        answer = await create(app, title="Другое")
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"
        assert await count(app) == 1
        both = await asyncio.gather(*(create(app, "k", title=title) for title in "аб"))
        assert sorted(answer.status_code for answer in both) == [201, 422]

    in_application(store_environment, act)


def test_refused_request_leaves_its_key_unused(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        refused = await create(app, title="")
        assert refused.status_code == 400
        assert (await create(app)).status_code == 201

    in_application(store_environment, act)


def test_repeated_closing_is_answered_as_the_first(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        first = await close(app, ticket, if_match='"1"')
        assert first.status_code == 200
        assert_replays(await close(app, ticket, if_match='"1"'), first)
        await app.patch(ticket, status="in_progress")
        again = await close(app, ticket, if_match='"1"')
        assert again.content == first.content
        assert (await app.client.get(f"/tickets/{ticket['id']}")).json()["status"] == "in_progress"
        other = await close(app, ticket, "another", if_match="*")
        assert (other.status_code, other.json()["version"]) == (200, 4)

    in_application(store_environment, act)


def test_closings_at_once_with_one_key_close_once(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        answers = await asyncio.gather(*(close(app, ticket) for _ in range(30)))
        assert {(answer.status_code, answer.content) for answer in answers} == {
            (200, answers[0].content)
        }
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1

    in_application(store_environment, act)


def test_closing_that_failed_may_be_repeated_with_its_key(
    store_environment: dict[str, str],
) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        await close(app, ticket, "first")
        assert (await close(app, ticket, "second")).status_code == 409
        await app.patch(ticket, status="in_progress")
        answer = await close(app, ticket, "second")
        assert (answer.status_code, answer.json()["version"]) == (200, 4)

    in_application(store_environment, act)


def test_other_reason_or_other_version_with_the_same_key_is_refused(
    store_environment: dict[str, str],
) -> None:
    async def act(app: Running) -> None:
        ticket = await app.create()
        await close(app, ticket, if_match='"1"')
        for answer in (
            await close(app, ticket, if_match='"1"', reason="иначе"),
            await close(app, ticket, if_match="*"),
        ):
            assert answer.status_code == 422
            assert answer.json()["code"] == "idempotency_key_reused"
        await app.patch(ticket, status="in_progress")
        answer = await close(app, ticket, if_match='"3"')
        assert answer.status_code == 422, "also when the ticket could be closed"

    in_application(store_environment, act)


def test_key_belongs_to_route_and_ticket(store_environment: dict[str, str]) -> None:
    async def act(app: Running) -> None:
        one, other = (await create(app)).json(), await app.create()
        for ticket in (one, other):
            answer = await close(app, ticket)
            assert (answer.status_code, answer.json()["id"]) == (200, ticket["id"])
            assert "idempotency-replayed" not in answer.headers

    in_application(store_environment, act)


def test_key_belongs_to_its_caller(store_environment: dict[str, str], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    lines = [
        f"{name} {hashlib.sha256(name.encode()).hexdigest()} tickets:read,tickets:write\n"
        for name in ("anna", "oleg")
    ]
    tokens.write_text("".join(lines))

    async def act(app: Running) -> None:
        answers = []
        for name in ("anna", "oleg", "anna"):
            app.client.headers["authorization"] = f"Bearer {name}"
            answers.append(await create(app))
        assert answers[0].json()["id"] != answers[1].json()["id"]
        assert_replays(answers[2], answers[0])

    in_application(store_environment | {"TICKETD_TOKENS_FILE": str(tokens)}, act)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", "too_short"),
        ('""', "too_short"),
        ("k" * 256, "too_long"),
        ('"' + "k" * 256 + '"', "too_long"),
        ("two words", "malformed_header"),
        ('"a", "b"', "malformed_header"),
        ('"open', "malformed_header"),
        (b"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87", "malformed_header"),
    ],
)
def test_malformed_key_is_refused(key: str | bytes, code: str) -> None:
    async def act(app: Running) -> None:
        headers = {b"Idempotency-Key": key.encode() if isinstance(key, str) else key}
        answer = await app.client.post("/tickets", json=NEW, headers=headers)
        assert answer.status_code == 400
        assert [(e["field"], e["code"]) for e in answer.json()["errors"]] == [
            ("Idempotency-Key", code)
        ]
        assert await count(app) == 0

    in_application({}, act)


def test_longest_key_is_taken_and_quotes_make_no_difference() -> None:
    async def act(app: Running) -> None:
        for key, same in (("k" * 255, f'"{"k" * 255}"'), (r'"a\"b\\c"', r'"a\"b\\c"')):
            first = await create(app, key, title=key[:50])
            assert_replays(await create(app, same, title=key[:50]), first)

    in_application({}, act)


def test_same_key_in_other_bytes_of_the_body_is_another_request() -> None:
    async def act(app: Running) -> None:
        await create(app)
        headers = {"idempotency-key": KEY, "content-type": "application/json"}
        body = orjson.dumps(NEW, option=orjson.OPT_INDENT_2)
        answer = await app.client.post("/tickets", content=body, headers=headers)
        assert answer.status_code == 422

    in_application({}, act)
