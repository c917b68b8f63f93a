"""Announcements with one Idempotency-Key at the same time, and with connections and processes that
die around the commit: one attachment, and everybody hears of it."""

import asyncio
from typing import Any

import httpx
import orjson
import psycopg
import pytest

from tests.conftest import StartDaemon
from tests.ticketd.application import Running, running, until
from tests.ticketd.attachments.conversation import (
    NAME,
    Client,
    announce_once,
    announcement,
    client_of,
)
from tests.ticketd.attachments.holding import held_up, how_many_wait
from tests.ticketd.lossy import NEVER_GIVES_UP, lossy, mute, severable
from tests.ticketd.test_held_rows import until_it_waits
from ticketd.idempotency import read_key
from ticketd.tokens import ANYONE

MARKER = NAME.encode()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def attachments(url: str) -> list[str]:
    return [row[0] for row in rows(url, "SELECT id::text FROM attachments ORDER BY id")]


def keys(url: str) -> int:
    return len(rows(url, "SELECT FROM idempotency_key"))


def id_of(answer: httpx.Response) -> str:
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["attachment"]["id"]
    assert answer.headers["location"].endswith(found)
    return found


def is_replayed(answer: httpx.Response) -> bool:
    return "idempotency-replayed" in answer.headers


def at(app: Running, client: Client) -> Client:
    """The same ticket at another application."""
    return Client(app.client, {"id": client.path.split("/")[2]})


# With one place, the first of them leaves none to the others.
@pytest.mark.parametrize("limit", ["1", "20"])
async def test_callers_at_once_with_one_key_announce_once(
    environment: dict[str, str], database_url: str, limit: str
) -> None:
    settings = environment | {"TICKETD_ATTACHMENT_LIMIT": limit}
    async with running(settings) as one, running(settings) as other:
        client = await client_of(one)
        clients = [client, at(other, client)] * 10
        answers = await asyncio.gather(*(announce_once(each) for each in clients))
        assert [id_of(answer) for answer in answers] == attachments(database_url) * 20
        assert sum(is_replayed(answer) for answer in answers) == 19
        assert len({answer.json()["upload"]["expires_at"] for answer in answers}) == 1
        for app in (one, other):
            assert app.events("request_failed") == []
    assert keys(database_url) == 1


async def test_two_in_the_midst_of_it_make_one_attachment(
    environment: dict[str, str], database_url: str
) -> None:
    async with running(environment) as one, running(environment) as other:
        client = await client_of(one)
        with held_up(database_url, "INSERT", then_ended=False) as database:
            waiting = [
                asyncio.create_task(announce_once(each)) for each in (client, at(other, client))
            ]
            await until(lambda: as_many_wait(database, 2))
        answers = [await answer for answer in waiting]
        assert [id_of(answer) for answer in answers] == attachments(database_url) * 2
        assert sorted(is_replayed(answer) for answer in answers) == [False, True]


async def as_many_wait(database: psycopg.Connection[Any], count: int) -> bool:
    return how_many_wait(database) == count


async def test_lost_race_for_the_last_place_leaves_the_key_unused(
    environment: dict[str, str], database_url: str
) -> None:
    settings = environment | {"TICKETD_ATTACHMENT_LIMIT": "1"}
    async with running(settings) as one, running(settings) as other:
        client = await client_of(one)
        with held_up(database_url, "INSERT", then_ended=False) as database:
            waiting = [
                asyncio.create_task(announce_once(each, key))
                for key, each in (("one", client), ("other", at(other, client)))
            ]
            await until(lambda: as_many_wait(database, 2))
        assert sorted([(await answer).status_code for answer in waiting]) == [201, 409]
    assert (len(attachments(database_url)), keys(database_url)) == (1, 1)


@pytest.mark.parametrize("commits", [True, False])
async def test_loser_waits_for_the_commit_of_a_winner_and_leaves_nothing(
    environment: dict[str, str], database_url: str, *, commits: bool
) -> None:
    """The winner has a place of its own, so that only the key stands between the two."""
    async with (
        running(environment) as app,
        await psycopg.AsyncConnection.connect(database_url) as rival,
    ):
        client = await client_of(app)
        first = await client.announce()
        body = orjson.dumps(announcement())
        key = read_key(b"k", ANYONE, f"attach {first['attachment']['ticket_id']}", body)
        kept = orjson.dumps(
            {
                "attachment_id": first["attachment"]["id"],
                "expires_at": first["upload"]["expires_at"],
            }
        )
        await rival.execute(
            "INSERT INTO idempotency_key VALUES (%s, %s, %s, %s)",
            (
                *(part.hex() for part in key),
                first["attachment"]["ticket_id"],
                kept.decode(),
            ),
        )
        waiting = asyncio.create_task(announce_once(client))
        await until_it_waits(database_url, waiting)
        await (rival.commit() if commits else rival.rollback())
        answer = await waiting
        if answer.status_code == 503:
            # This machine stood still for so long that the wait was given up.
            answer = await announce_once(client)
        assert is_replayed(answer) == commits
        assert (id_of(answer) == first["attachment"]["id"]) == commits
        assert len(attachments(database_url)) == (1 if commits else 2)
        assert app.events("request_failed") == []


@pytest.mark.parametrize("losses", [1, 3])
async def test_announcement_whose_answer_is_lost_is_found_to_be_its_own(
    environment: dict[str, str], database_url: str, losses: int
) -> None:
    async with (
        lossy(database_url, MARKER, losses) as url,
        running(environment | {"DATABASE_URL": url} | NEVER_GIVES_UP) as app,
    ):
        client = await client_of(app)
        answer = await announce_once(client)
        assert [id_of(answer)] == attachments(database_url)
        assert not is_replayed(answer)
        assert (await client.upload(answer.json())).status_code == 200
        again = await announce_once(client)
        assert is_replayed(again)
        assert id_of(again) == id_of(answer)
    assert keys(database_url) == 1


async def test_connection_lost_while_the_database_works_on_makes_no_second_one(
    environment: dict[str, str], database_url: str
) -> None:
    """The statement is repeated beside the first one, which nobody listens to any more."""
    async with (
        severable(database_url) as (url, sever),
        running(environment | {"DATABASE_URL": url} | NEVER_GIVES_UP) as app,
    ):
        client = await client_of(app)
        with held_up(database_url, "INSERT", then_ended=False) as database:
            waiting = asyncio.create_task(announce_once(client))
            await until(lambda: as_many_wait(database, 1))
            sever()
            await until(lambda: as_many_wait(database, 2))
        answer = await waiting
        assert [id_of(answer)] == attachments(database_url)
        assert not is_replayed(answer)
    assert keys(database_url) == 1


async def test_process_killed_between_commit_and_answer_has_announced(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str
) -> None:
    daemon = start_daemon("ticketd", environment).wait_ready()
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        ticket = (await ticketd.post("/tickets", json={"title": "t", "requester": "r"})).json()

    async def committed() -> bool:
        return len(attachments(database_url)) == 1

    async with mute(database_url, MARKER) as url:
        settings = environment | {"DATABASE_URL": url} | NEVER_GIVES_UP
        deaf = await asyncio.to_thread(start_daemon, "ticketd", settings)
        await asyncio.to_thread(deaf.wait_ready)
        async with httpx.AsyncClient(base_url=deaf.url, timeout=60) as ticketd:
            asking = asyncio.create_task(announce_once(Client(ticketd, ticket)))
            await until(committed)
            deaf.kill()
            with pytest.raises(httpx.TransportError):
                await asking
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        client = Client(ticketd, ticket)
        answer = await announce_once(client)
        assert [id_of(answer)] == attachments(database_url)
        assert is_replayed(answer)
        assert (await client.upload(answer.json())).status_code == 200
        assert (await client.complete(answer.json())).status_code == 200
