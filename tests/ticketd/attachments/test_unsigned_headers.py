"""Headers of an upload that its signature says nothing of change nothing of what is downloaded."""

import gzip

import pytest

from tests.support.storage import Storage
from tests.ticketd.application import running
from tests.ticketd.attachments.conversation import client_of
from tests.ticketd.attachments.test_refusals import problem_of

# A client that heeds Content-Encoding saves something else, a thousand times as large.
BOMB = gzip.compress(b"\0" * 1_000_000)


async def test_encoded_upload_is_not_what_was_announced(environment: dict[str, str]) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = await client.announce(BOMB)
        plain_headers = announced["upload"]["headers"]
        announced["upload"]["headers"] = plain_headers | {"Content-Encoding": "gzip"}
        assert (await client.upload(announced, BOMB)).status_code == 200
        refused = await client.complete(announced)
        assert problem_of(refused) == (409, "upload_mismatch")
        assert "Content-Encoding" in refused.json()["detail"]
        assert await client.listed() == []
        announced["upload"]["headers"] = plain_headers
        assert (await client.upload(announced, BOMB)).status_code == 200
        assert (await client.complete(announced)).status_code == 200


async def test_encoding_that_comes_later_is_not_downloaded(environment: dict[str, str]) -> None:
    async with running(environment) as app:
        client = await client_of(app)
        announced = await client.announce(BOMB)
        assert (await client.upload(announced, BOMB)).status_code == 200
        assert (await client.complete(announced)).status_code == 200
        announced["upload"]["headers"]["Content-Encoding"] = "gzip"
        assert (await client.upload(announced, BOMB)).status_code == 200
        downloaded = await client.download(announced)
    assert downloaded.headers["content-encoding"] == "identity"
    assert downloaded.content == BOMB


@pytest.mark.parametrize("slash", ["", "/"])
async def test_nothing_is_copied_with_the_url_of_an_upload(
    environment: dict[str, str], storage: Storage, slash: str
) -> None:
    """A store that took this header unsigned would copy what ticketd's key may read."""
    async with running(environment) as app:
        client = await client_of(app)
        storage.put("tickets/secret", b"of another")
        announced = await client.announce()
        source = {"x-amz-copy-source": f"{slash}{storage.bucket}/tickets/secret"}
        announced["upload"]["headers"] |= source
        assert (await client.upload(announced)).status_code == 403
        assert storage.keys() == ["tickets/secret"]
        assert problem_of(await client.complete(announced)) == (409, "upload_missing")
