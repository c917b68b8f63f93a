"""With the cache on, an attachment is a change of its ticket like any other."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any

import httpx
import pytest

from tests.ticketd.application import Running, running, until
from tests.ticketd.attachments.conversation import Client
from tests.ticketd.attachments.holding import held_up, how_many_wait
from tests.ticketd.test_cache import read, until_it_hits


async def has_version(app: Running, ticket: dict[str, Any], version: int) -> bool:
    return bool((await read(app, ticket)).json()["version"] == version)


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


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("act", ["complete", "delete"])
async def test_change_that_outlives_its_request_is_known_in_the_end(
    environment: dict[str, str], database_url: str, valkey_url: str, act: str, *, hangs_up: bool
) -> None:
    settings = environment | {"REDIS_URL": valkey_url, "TICKETD_CACHE": "true"}
    settings |= {"TICKETD_CACHE_TTL": "1h", "TICKETD_REQUEST_TIMEOUT": "8s"}
    async with running(settings) as app:
        ticket = await app.create()
        client = Client(app.client, ticket)
        found = await (client.attach() if act == "delete" else client.announce())
        if act == "complete":
            assert (await client.upload(found)).status_code == 200
        before = (await read(app, ticket)).json()["version"]
        with held_up(database_url, "UPDATE", then_ended=False) as database:
            change = asyncio.create_task(getattr(client, act)(found))

            async def waits() -> bool:
                return how_many_wait(database) == 1

            await until(waits)
            if hangs_up:
                change.cancel()
                with suppress(asyncio.CancelledError):
                    await change
                await until(partial(was_abandoned, app))
            else:
                answer: httpx.Response = await change
                assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert (await until_it_hits(app, ticket)).json()["version"] == before
        await until(partial(has_version, app, ticket, before + 1))
        assert len(await client.listed()) == (1 if act == "complete" else 0)


async def was_abandoned(app: Running) -> bool:
    return "ticketd_requests_abandoned_total 1.0" in (await app.client.get("/metrics")).text
