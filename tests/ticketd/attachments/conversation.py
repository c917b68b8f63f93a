"""What a client of attachments does: announce, upload to S3, complete, download."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import orjson

from tests.ticketd.application import Running
from ticketd.attachments.attachment import Attachment

CONTENT = "Принтер: журнал ошибок 🖨️\n".encode() * 40
NAME = "журнал ошибок 🖨️.txt"


def announcement(content: bytes = CONTENT, **members: object) -> dict[str, object]:
    """The body that announces this content, with some members otherwise."""
    return {
        "name": NAME,
        "content_type": "text/plain",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    } | members


class Client:
    """For the attachments of one ticket."""

    def __init__(self, ticketd: httpx.AsyncClient, ticket: dict[str, Any]) -> None:
        self.ticketd = ticketd
        self.path = f"/tickets/{ticket['id']}/attachments"

    async def announce(self, content: bytes = CONTENT, **members: object) -> dict[str, Any]:
        answer = await self.ticketd.post(self.path, json=announcement(content, **members))
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def upload(self, announced: dict[str, Any], content: bytes = CONTENT) -> httpx.Response:
        """As the answer says; straight to S3."""
        upload = announced["upload"]
        async with httpx.AsyncClient() as plain:
            return await plain.request(
                upload["method"], upload["url"], headers=upload["headers"], content=content
            )

    async def complete(self, announced: dict[str, Any]) -> httpx.Response:
        return await self.ticketd.post(f"{self.path_of(announced)}/complete")

    async def attach(self, content: bytes = CONTENT, **members: object) -> dict[str, Any]:
        """An attachment that everybody sees."""
        announced = await self.announce(content, **members)
        uploaded = await self.upload(announced, content)
        assert uploaded.status_code == 200, uploaded.text
        completed = await self.complete(announced)
        assert completed.status_code == 200, completed.text
        found: dict[str, Any] = completed.json()
        return found

    async def listed(self) -> list[dict[str, Any]]:
        answer = await self.ticketd.get(self.path)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def download(self, attachment: dict[str, Any]) -> httpx.Response:
        """What a browser gets that follows the redirect."""
        redirect = await self.ticketd.get(self.path_of(attachment))
        assert redirect.status_code == 302, redirect.text
        async with httpx.AsyncClient() as plain:
            return await plain.get(redirect.headers["location"])

    async def delete(self, attachment: dict[str, Any]) -> httpx.Response:
        return await self.ticketd.delete(self.path_of(attachment))

    def path_of(self, found: dict[str, Any]) -> str:
        return f"{self.path}/{found.get('attachment', found)['id']}"


async def client_of(app: Running) -> Client:
    """For a new ticket."""
    return Client(app.client, await app.create())


def an_attachment() -> Attachment:
    return Attachment(
        id=UUID(int=1),
        ticket_id=UUID(int=2),
        state="pending",
        name="a.txt",
        content_type="text/plain",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).digest(),
        created_at=datetime.now(UTC),
        completed_at=None,
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


def end_of(url: str) -> datetime:
    """When S3 no longer takes a presigned request, as its signature has it."""
    query = parse_qs(urlsplit(url).query)
    signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed_at + timedelta(seconds=int(query["X-Amz-Expires"][0]))


async def announce_once(client: Client, key: str = "k", *, name: str = NAME) -> httpx.Response:
    """With an Idempotency-Key; the same name is the same body, byte for byte."""
    headers = {"content-type": "application/json", "idempotency-key": key}
    body = orjson.dumps(announcement(name=name))
    return await client.ticketd.post(client.path, content=body, headers=headers)


def key_of(found: dict[str, Any]) -> str:
    """Where its content is in the bucket."""
    attachment = found.get("attachment", found)
    return f"tickets/{attachment['ticket_id']}/{attachment['id']}"
