"""The way of an attachment: announced, uploaded straight to S3, completed, downloaded, deleted."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import psycopg
from psycopg.rows import dict_row

from tests.support.storage import Storage
from tests.ticketd.application import NEW, in_tasks, running, until
from tests.ticketd.attachments.conversation import CONTENT, NAME, Client, client_of, key_of


def outbox(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    url = environment["DATABASE_URL"]
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM outbox ORDER BY id").fetchall()


async def test_attachment_goes_straight_to_s3_and_back(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = await client.announce()
        assert announced["attachment"]["state"] == "pending"
        assert announced["upload"]["url"].startswith(storage.server.url())
        assert await client.listed() == []
        assert (await client.upload(announced)).status_code == 200
        completed = await client.complete(announced)
        assert completed.status_code == 200
        attachment = completed.json()
        assert attachment["state"] == "ready"
        assert await client.listed() == [attachment]
        assert storage.read(key_of(attachment)) == CONTENT
        downloaded = await client.download(attachment)
    assert downloaded.content == CONTENT
    assert downloaded.headers["content-type"] == "text/plain"
    assert downloaded.headers["content-disposition"].startswith("attachment; ")
    assert NAME not in str(storage.keys())


async def test_events_carry_the_ticket_and_the_attachment_and_no_url(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        attachment = await client.attach()
        assert (await client.delete(attachment)).status_code == 204
        ticket = (await app.client.get(client.path.removesuffix("/attachments"))).json()
    rows = outbox(environment)
    types = ["ticket.created", "ticket.attachment_added", "ticket.attachment_removed"]
    assert [row["event_type"] for row in rows] == types
    assert [row["sequence"] for row in rows] == [1, 2, 3]
    assert len({(row["bucket"], row["aggregate_id"]) for row in rows}) == 1
    payloads = [orjson.loads(row["payload"]) for row in rows]
    assert [payload["version"] for payload in payloads] == [1, 2, 3]
    shown = {name: value for name, value in attachment.items() if name != "state"}
    assert payloads[1].pop("attachment") == payloads[2].pop("attachment") == shown
    assert payloads[2] == ticket
    assert "://" not in rows[1]["payload"] + rows[2]["payload"]


async def test_repeats_of_complete_and_delete_change_nothing_more(
    environment: dict[str, str],
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = await client.announce()
        await client.upload(announced)
        answers = await asyncio.gather(*(client.complete(announced) for _ in range(20)))
        assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
        assert (await client.complete(announced)).text == answers[0].text
        gone = await asyncio.gather(*(client.delete(announced) for _ in range(20)))
        assert {answer.status_code for answer in gone} == {204}
        assert (await client.delete(announced)).status_code == 204
        assert (await client.complete(announced)).status_code == 404
    assert [row["sequence"] for row in outbox(environment)] == [1, 2, 3]


async def test_deleted_attachment_is_gone_from_the_list_and_then_from_s3(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        kept, deleted = await client.attach(), await client.attach()
        assert (await client.delete(deleted)).status_code == 204
        assert await client.listed() == [kept]
        assert (await app.client.get(client.path_of(deleted))).status_code == 404

        async def object_is_gone() -> bool:
            return storage.keys() == [key_of(kept)]

        await until(object_is_gone)
        assert app.events("sweep_failed") == []


async def test_store_without_checksums_has_the_file_read_back(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        right, wrong = await client.announce(), await client.announce()
        # Not by the presigned URL, so the store knows no SHA-256 of them.
        storage.put(key_of(right), CONTENT)
        storage.put(key_of(wrong), CONTENT[::-1])
        assert (await client.complete(right)).status_code == 200
        refused = await client.complete(wrong)
        assert (refused.status_code, refused.json()["code"]) == (409, "upload_mismatch")
        assert "SHA-256" in refused.json()["detail"]
        metrics = (await app.client.get("/metrics")).text
        assert 'ticketd_storage_call_seconds_count{operation="read",outcome="ok"} 2.0' in metrics
        assert [item["id"] for item in await client.listed()] == [right["attachment"]["id"]]


async def test_other_asgi_servers_serve_attachments_too(environment: dict[str, str]) -> None:
    async with in_tasks(environment) as asgi:
        transport = httpx.ASGITransport(asgi)
        async with httpx.AsyncClient(transport=transport, base_url="http://ticketd") as ticketd:
            ticket = (await ticketd.post("/tickets", json=NEW)).json()
            client = Client(ticketd, ticket)
            attachment = await client.attach()
            assert (await client.download(attachment)).content == CONTENT
            gone = await client.delete(attachment)
            assert gone.status_code == 204
            assert "content-length" not in gone.headers
