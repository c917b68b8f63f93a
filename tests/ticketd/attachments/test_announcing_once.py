"""Announcements with an Idempotency-Key: a repeat gets the first answer again, with an upload that
is good for as long as the first one and no longer."""

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import psycopg
import pytest

from tests.conftest import StartDaemon
from tests.support.storage import Storage
from tests.ticketd.application import NEW, Running, running, until
from tests.ticketd.attachments.conversation import (
    CONTENT,
    Client,
    announce_once,
    client_of,
    end_of,
    key_of,
    utc_now,
)

AWAY = {"S3_ENDPOINT": "http://127.0.0.1:9"}


def rows(environment: dict[str, str], query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        return connection.execute(query.encode()).fetchall()


def count(environment: dict[str, str]) -> tuple[int, int]:
    """Of attachments, and of keys."""
    query = "SELECT (SELECT count(*) FROM attachments), (SELECT count(*) FROM idempotency_key)::int"
    ((attachments, keys),) = rows(environment, query)
    return attachments, keys


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def assert_replays(answer: httpx.Response, first: httpx.Response) -> None:
    """All is as it was but the signature of the URL."""
    assert (answer.status_code, first.status_code) == (201, 201), answer.text
    assert "idempotency-replayed" not in first.headers
    assert answer.headers["idempotency-replayed"] == "true"
    assert answer.headers["location"] == first.headers["location"]
    one, other = answer.json(), first.json()
    assert one["attachment"] == other["attachment"]
    urls = [each["upload"].pop("url") for each in (one, other)]
    assert urlsplit(urls[0]).path == urlsplit(urls[1]).path
    assert one["upload"] == other["upload"]


def assert_ends_as_it_says(answer: httpx.Response) -> None:
    upload = answer.json()["upload"]
    assert end_of(upload["url"]) == datetime.fromisoformat(upload["expires_at"])


async def test_repeat_gets_the_first_answer_and_an_upload_that_ends_with_the_first(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        first = await announce_once(client)
        answered_at = utc_now()

        async def is_another_second() -> bool:
            return utc_now() >= answered_at + timedelta(seconds=1)

        await until(is_another_second)
        again = await announce_once(client)
        assert_replays(again, first)
        announced = again.json()
        assert announced["upload"]["url"] != first.json()["upload"]["url"]
        for answer in (first, again):
            assert_ends_as_it_says(answer)
        assert (await client.upload(announced)).status_code == 200
        assert (await client.complete(announced)).status_code == 200
        assert storage.read(key_of(announced)) == CONTENT
        assert app.events("request_failed") == []
    assert count(environment) == (1, 1)


async def test_completed_one_is_answered_as_at_first_while_its_upload_lasts(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        first = await announce_once(client)
        await client.upload(first.json())
        assert (await client.complete(first.json())).json()["state"] == "ready"
        again = await announce_once(client)
        assert_replays(again, first)
        # Who goes through all of it once more changes nothing.
        assert (await client.upload(again.json())).status_code == 200
        assert (await client.complete(again.json())).status_code == 200
        assert len(await client.listed()) == 1


async def test_another_time_for_uploads_changes_nothing_of_those_announced(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        first = await announce_once(client)
    async with running(environment | {"TICKETD_ATTACHMENT_UPLOAD_TTL": "2h"}) as app:
        client = Client(app.client, {"id": first.json()["attachment"]["ticket_id"]})
        again = await announce_once(client)
    assert_replays(again, first)
    assert_ends_as_it_says(again)


@pytest.mark.parametrize("is_completed", [False, True])
async def test_removed_one_is_over(environment: dict[str, str], *, is_completed: bool) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = (await announce_once(client)).json()
        if is_completed:
            await client.upload(announced)
            assert (await client.complete(announced)).status_code == 200
        assert (await client.delete(announced)).status_code == 204
        for _ in range(2):
            again = await announce_once(client)
            assert problem_of(again) == (409, "upload_expired")
            assert "new key" in again.json()["detail"]
        assert (await announce_once(client, "another")).status_code == 201


@pytest.mark.parametrize(
    ("is_completed", "code"), [(False, "upload_expired"), (True, "already_attached")]
)
async def test_repeat_after_the_end_of_the_upload_gets_no_other_one(
    environment: dict[str, str], storage: Storage, *, is_completed: bool, code: str
) -> None:
    async with running(environment | {"TICKETD_ATTACHMENT_UPLOAD_TTL": "1s"}) as app:
        client = await client_of(app)
        announced = (await announce_once(client)).json()
        if is_completed:
            storage.put(key_of(announced), CONTENT)
            assert (await client.complete(announced)).status_code == 200
        expires_at = datetime.fromisoformat(announced["upload"]["expires_at"])

        async def is_over() -> bool:
            answer = await announce_once(client)
            if answer.status_code == 201:
                assert_ends_as_it_says(answer)
                return False
            assert problem_of(answer) == (409, code)
            assert (announced["attachment"]["id"] in answer.text) == is_completed
            return utc_now() >= expires_at

        await until(is_over)
    assert count(environment) == (1, 1)


async def test_other_body_with_the_same_key_is_refused_also_without_the_store(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        first = await announce_once(client)
        other = await announce_once(client, name="другое.txt")
        assert problem_of(other) == (422, "idempotency_key_reused")
        ticket_id = first.json()["attachment"]["ticket_id"]
    async with running(environment | AWAY) as app:
        client = Client(app.client, {"id": ticket_id})
        await until(lambda: is_away(app))
        other = await announce_once(client, name="другое.txt")
        assert problem_of(other) == (422, "idempotency_key_reused")
        for key in ("k", "new"):
            refused = await announce_once(client, key)
            assert problem_of(refused) == (503, "storage_unavailable")
            assert "retry-after" in refused.headers
    assert count(environment) == (1, 1)


async def test_repeat_is_not_held_against_limits_that_changed(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        first = await announce_once(client)
    limits = {"TICKETD_ATTACHMENT_TYPES": "image/png", "TICKETD_ATTACHMENT_MAX_BYTES": "1000"}
    async with running(environment | limits) as app:
        client = Client(app.client, {"id": first.json()["attachment"]["ticket_id"]})
        assert_replays(await announce_once(client), first)
        assert problem_of(await announce_once(client, "new")) == (400, "validation_failed")
    assert count(environment) == (1, 1)


async def test_what_is_over_is_over_also_without_the_store(environment: dict[str, str]) -> None:
    async with running(environment | {"TICKETD_ATTACHMENT_UPLOAD_TTL": "1s"}) as app:
        client = await client_of(app)
        first = (await announce_once(client)).json()
    async with running(environment | AWAY) as app:
        client = Client(app.client, {"id": first["attachment"]["ticket_id"]})
        await until(lambda: is_away(app))
        expires_at = datetime.fromisoformat(first["upload"]["expires_at"])

        async def is_over() -> bool:
            return utc_now() >= expires_at

        await until(is_over)
        assert problem_of(await announce_once(client)) == (409, "upload_expired")


async def is_away(app: Running) -> bool:
    return bool(app.events("storage_away"))


async def test_key_belongs_to_its_route_and_ticket(environment: dict[str, str]) -> None:
    headers = {"idempotency-key": "k"}
    async with running(environment) as app:
        created = await app.client.post("/tickets", json=NEW, headers=headers)
        assert created.status_code == 201
        client, other = Client(app.client, created.json()), await client_of(app)
        answers = [await announce_once(client), await announce_once(other)]
        assert {answer.status_code for answer in answers} == {201}
        path = client.path.replace("attachments", "close")
        # The very same bytes would do here as well.
        closed = await app.client.post(path, headers=headers)
        assert closed.status_code == 200, closed.text
        answers += [created, closed]
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None] * 4
    assert count(environment) == (2, 4)


async def test_key_belongs_to_its_caller(environment: dict[str, str], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    lines = [
        f"{name} {hashlib.sha256(name.encode()).hexdigest()} tickets:read,tickets:write\n"
        for name in ("anna", "oleg")
    ]
    tokens.write_text("".join(lines))
    async with running(environment | {"TICKETD_TOKENS_FILE": str(tokens)}) as app:
        app.client.headers["authorization"] = "Bearer anna"
        client = await client_of(app)
        annas = await announce_once(client)
        app.client.headers["authorization"] = "Bearer oleg"
        olegs = await announce_once(client)
    assert (annas.status_code, olegs.status_code) == (201, 201)
    assert annas.headers["location"] != olegs.headers["location"]


async def test_full_ticket_leaves_the_key_unused(environment: dict[str, str]) -> None:
    async with running(environment | {"TICKETD_ATTACHMENT_LIMIT": "1"}) as app:
        client = await client_of(app)
        first = await announce_once(client, "first")
        for _ in range(2):
            assert problem_of(await announce_once(client)) == (409, "too_many_attachments")
        assert count(environment) == (1, 1)
        # The one that filled it is answered all the same.
        assert_replays(await announce_once(client, "first"), first)
        assert (await client.delete(first.json())).status_code == 204
        then = await announce_once(client)
        assert then.status_code == 201
        assert "idempotency-replayed" not in then.headers


async def test_refused_request_leaves_its_key_unused(environment: dict[str, str]) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        nowhere = Client(app.client, {"id": "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"})
        assert problem_of(await announce_once(nowhere)) == (404, "not_found")
        assert problem_of(await announce_once(client, name="")) == (400, "validation_failed")
        for key in ("", "k" * 256, "two words"):
            refused = await announce_once(client, key)
            assert refused.status_code == 400
            assert refused.json()["errors"][0]["field"] == "Idempotency-Key"
        assert count(environment) == (0, 0)
        assert (await announce_once(client)).status_code == 201


async def test_url_is_kept_nowhere(start_daemon: StartDaemon, environment: dict[str, str]) -> None:
    daemon = start_daemon("ticketd", environment | {"LOG_LEVEL": "debug"}).wait_ready()
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        client = Client(ticketd, (await ticketd.post("/tickets", json=NEW)).json())
        first, again = await announce_once(client), await announce_once(client)
    assert_replays(again, first)
    assert daemon.terminate() == 0
    ((answer,),) = rows(environment, "SELECT answer FROM idempotency_key")
    assert set(orjson.loads(answer)) == {"attachment_id", "expires_at"}
    written = daemon.text() + str(rows(environment, "SELECT * FROM idempotency_key"))
    assert "/tickets/{id}/attachments" in written
    for secret in ("X-Amz", "http://"):
        assert secret not in written
