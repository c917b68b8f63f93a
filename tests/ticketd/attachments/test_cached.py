"""With the cache on, an attachment is a change of its ticket like any other."""

from tests.ticketd.application import running
from tests.ticketd.attachments.conversation import Client
from tests.ticketd.test_cache import read, until_it_hits


async def test_ticket_from_the_cache_is_never_older_than_its_attachments(
    environment: dict[str, str], valkey_url: str
) -> None:
    settings = environment | {"REDIS_URL": valkey_url, "TICKETD_CACHE": "true"}
    async with running(settings) as app:
        ticket = await app.create()
        client = Client(app.client, ticket)
        await until_it_hits(app, ticket)
        attachment = await client.attach()
        assert (await read(app, ticket)).json()["version"] == 2
        await until_it_hits(app, ticket)
        assert (await client.delete(attachment)).status_code == 204
        assert (await read(app, ticket)).json()["version"] == 3
