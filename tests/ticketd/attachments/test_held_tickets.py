"""A ticket that somebody holds in a transaction of his own holds up no attachment of another."""

import asyncio
from functools import partial

import psycopg
import pytest

from tests.ticketd.application import running
from tests.ticketd.attachments.conversation import CONTENT, announcement, client_of
from tests.ticketd.test_held_rows import PATIENCE, assert_refused, held, until_it_waits


async def test_attachments_of_other_tickets_go_on_while_one_is_held(
    environment: dict[str, str], database_url: str
) -> None:
    async with running(environment | PATIENCE) as app:
        client, other = await client_of(app), await client_of(app)
        attached = await client.attach()
        announced = await client.announce(CONTENT + b"2")
        assert (await client.upload(announced, CONTENT + b"2")).status_code == 200
        with held(database_url, {"id": attached["ticket_id"]}):
            for change in (partial(client.complete, announced), partial(client.delete, attached)):
                refused = asyncio.create_task(change())
                await until_it_waits(database_url, refused)
                await other.attach()
                assert_refused(await refused)
            # The holder's UPDATE leaves the ticket's key alone, so it can be referred to.
            await client.announce()
        assert (await client.complete(announced)).status_code == 200
        assert (await client.delete(attached)).status_code == 204


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
async def test_announcement_for_a_ticket_whose_key_is_held_is_refused(
    environment: dict[str, str], database_url: str, headers: dict[str, str]
) -> None:
    async with running(environment | PATIENCE) as app:
        client, other = await client_of(app), await client_of(app)
        announce = partial(app.client.post, client.path, json=announcement(), headers=headers)
        with psycopg.connect(database_url) as holder:
            ticket_id = client.path.split("/")[2]
            holder.execute("SELECT FROM tickets WHERE id = %s FOR UPDATE", (ticket_id,))
            refused = asyncio.create_task(announce())
            await until_it_waits(database_url, refused)
            await other.announce()
            assert_refused(await refused)
        assert (await announce()).status_code == 201
