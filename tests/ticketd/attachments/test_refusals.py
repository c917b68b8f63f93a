"""What is refused: wrong announcements, uploads of something else, too many, too late."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.support.storage import Storage
from tests.ticketd.application import running, until
from tests.ticketd.attachments.conversation import (
    CONTENT,
    Client,
    announcement,
    client_of,
    key_of,
)
from tests.ticketd.attachments.holding import held_up, how_many_wait

UNKNOWN = UUID(int=7)
WRONG: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"name": ""}, ("name", "invalid_name")),
    ({"name": "a" * 201}, ("name", "invalid_name")),
    ({"name": "../../etc/passwd"}, ("name", "invalid_name")),
    ({"name": "c:\\boot.ini"}, ("name", "invalid_name")),
    ({"name": ".."}, ("name", "invalid_name")),
    ({"name": "."}, ("name", "invalid_name")),
    ({"name": "a\r\nSet-Cookie: b=c"}, ("name", "invalid_name")),
    ({"name": "a\n"}, ("name", "invalid_name")),
    ({"name": "a\x00b"}, ("name", "invalid_name")),
    ({"name": "a\x7f"}, ("name", "invalid_name")),
    ({"name": "a\u2028b"}, ("name", "invalid_name")),
    # Shown as photo_exe.jpg.
    ({"name": "photo_\u202egpj.exe"}, ("name", "invalid_name")),
    ({"name": " a"}, ("name", "invalid_name")),
    ({"name": "a\u00a0"}, ("name", "invalid_name")),
    ({"name": 5}, ("name", "wrong_type")),
    ({"content_type": "text/html"}, ("content_type", "type_not_allowed")),
    ({"content_type": "image/svg+xml"}, ("content_type", "type_not_allowed")),
    ({"content_type": "text"}, ("content_type", "invalid_type")),
    ({"content_type": "text/plain; charset=utf-8"}, ("content_type", "invalid_type")),
    ({"content_type": "text/plain\r\nX: y"}, ("content_type", "invalid_type")),
    ({"content_type": None}, ("content_type", "wrong_type")),
    ({"size": 0}, ("size", "out_of_range")),
    ({"size": 26_214_401}, ("size", "out_of_range")),
    ({"size": True}, ("size", "wrong_type")),
    ({"size": 1.5}, ("size", "wrong_type")),
    ({"sha256": "0" * 63}, ("sha256", "invalid_digest")),
    ({"sha256": "A" * 64}, ("sha256", "invalid_digest")),
    ({"url": "https://example.org"}, ("url", "unknown_field")),
]


def problem_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_every_wrong_member_is_named(environment: dict[str, str]) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        for members, (field, code) in WRONG:
            answer = await app.client.post(client.path, json=announcement(**members))
            assert problem_of(answer) == (400, "validation_failed"), members
            errors = [(error["field"], error["code"]) for error in answer.json()["errors"]]
            assert errors == [(field, code)], members
        nothing = await app.client.post(client.path, json={})
        assert {error["field"] for error in nothing.json()["errors"]} == set(announcement())


async def test_settings_say_what_may_be_attached(environment: dict[str, str]) -> None:
    limits = {
        "TICKETD_ATTACHMENT_TYPES": "text/html",
        "TICKETD_ATTACHMENT_MAX_BYTES": str(len(CONTENT)),
    }
    async with running(environment | limits) as app:
        client = await client_of(app)
        await client.announce(content_type="text/html")
        answer = await app.client.post(client.path, json=announcement(CONTENT + b"!"))
        assert {error["field"] for error in answer.json()["errors"]} == {"content_type", "size"}


async def test_store_takes_nothing_but_what_was_announced(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = await client.announce()
        assert (await client.upload(announced, CONTENT[::-1])).status_code == 400
        announced["upload"]["headers"]["Content-Type"] = "text/html"
        assert (await client.upload(announced)).status_code == 403
        assert storage.keys() == []
        assert problem_of(await client.complete(announced)) == (409, "upload_missing")
        storage.put(key_of(announced), CONTENT[:-1])
        refused = await client.complete(announced)
        assert problem_of(refused) == (409, "upload_mismatch")
        assert f"{len(CONTENT) - 1} bytes" in refused.json()["detail"]
        assert await client.listed() == []


async def test_url_of_an_upload_expires(environment: dict[str, str]) -> None:
    async with running(environment | {"TICKETD_ATTACHMENT_UPLOAD_TTL": "1s"}) as app:
        client = await client_of(app)
        announced = await client.announce()

        async def is_refused() -> bool:
            return (await client.upload(announced)).status_code == 403

        await until(is_refused)


async def test_many_at_once_are_never_more_than_a_ticket_may_have(
    environment: dict[str, str],
) -> None:
    settings = environment | {"TICKETD_ATTACHMENT_LIMIT": "5"}
    async with running(settings) as app:
        client = await client_of(app)
        answers = await asyncio.gather(
            *(app.client.post(client.path, json=announcement()) for _ in range(30))
        )
        taken = [answer.json() for answer in answers if answer.status_code == 201]
        refused = [problem_of(answer) for answer in answers if answer.status_code != 201]
        assert len(taken) == 5
        assert set(refused) == {(409, "too_many_attachments")}
        assert (await client.delete(taken[0])).status_code == 204
        await client.announce()


async def test_two_that_see_the_same_free_place_do_not_both_take_it(
    environment: dict[str, str], database_url: str
) -> None:
    settings = environment | {"TICKETD_ATTACHMENT_LIMIT": "1"}
    async with running(settings) as one, running(settings) as other:
        path = (await client_of(one)).path
        with held_up(database_url, "INSERT", then_ended=False) as database:

            async def both_wait() -> bool:
                return how_many_wait(database) == 2

            waiting = [
                asyncio.create_task(app.client.post(path, json=announcement()))
                for app in (one, other)
            ]
            await until(both_wait)
        statuses = sorted([(await answer).status_code for answer in waiting])
    assert statuses == [201, 409]


async def test_what_is_not_there_is_not_found(environment: dict[str, str]) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        pending = await client.announce()
        strange = Client(app.client, {"id": UNKNOWN})
        other = await client_of(app)
        not_found = [
            await app.client.post(strange.path, json=announcement()),
            await app.client.get(strange.path),
            await app.client.delete(f"{strange.path}/{UNKNOWN}"),
            await app.client.get(f"{client.path}/{UNKNOWN}"),
            await app.client.post(f"{client.path}/{UNKNOWN}/complete"),
            # Nobody sees it yet, and it is of another ticket.
            await app.client.get(client.path_of(pending)),
            await app.client.post(f"{other.path}/{pending['attachment']['id']}/complete"),
            await app.client.get(f"{client.path}/"),
            await app.client.get(f"{client.path}/{UNKNOWN}/other"),
            await app.client.get(f"{client.path}/{UNKNOWN}/complete/more"),
        ]
        assert {problem_of(answer) for answer in not_found} == {(404, "not_found")}
        malformed = await app.client.get(f"{client.path}/{UNKNOWN.hex}")
        assert malformed.json()["errors"][0]["field"] == "attachment_id"
        wrong_method = await app.client.put(client.path_of(pending))
        assert wrong_method.headers["allow"] == "DELETE, GET, HEAD"
        # Deleting by another ticket's path deletes nothing.
        await app.client.delete(f"{other.path}/{pending['attachment']['id']}")
        assert (await client.upload(pending)).status_code == 200
        assert (await client.complete(pending)).status_code == 200


@pytest.mark.parametrize("settings", [{}, {"S3_ENDPOINT": "http://127.0.0.1:9"}])
async def test_without_a_bucket_the_routes_say_so(settings: dict[str, str]) -> None:
    async with running(settings) as app:
        client = await client_of(app)
        path = f"{client.path}/{UNKNOWN}"
        answers = [
            await app.client.post(client.path, json=announcement()),
            await app.client.get(client.path),
            await app.client.get(path),
            await app.client.delete(path),
            await app.client.post(f"{path}/complete"),
        ]
        assert {problem_of(answer) for answer in answers} == {(501, "attachments_disabled")}
        assert (await app.client.get("/readyz")).json()["checks"] == {"database": "ok"}
        assert "ticketd_storage" not in (await app.client.get("/metrics")).text
