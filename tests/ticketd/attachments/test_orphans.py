"""Nothing is left over in the table or in S3, at whatever step ticketd dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import StartDaemon
from tests.support.processes import Daemon, wait_until
from tests.support.storage import Storage
from tests.ticketd.application import NEW
from tests.ticketd.attachments.conversation import CONTENT, Client, key_of
from tests.ticketd.attachments.holding import held_up, how_many_wait

# A sweep every moment, of uploads that are not waited for long.
HASTY = {
    "TICKETD_ATTACHMENT_SWEEP": "200ms",
    "TICKETD_ATTACHMENT_UPLOAD_TTL": "6s",
    "TICKETD_ATTACHMENT_LATE_UPLOAD": "0s",
}


def rows(url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT id, state FROM attachments").fetchall()


def no_upload_can_come(url: str) -> bool:
    """Once that is so, a row goes as soon as its object is gone."""
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT bool_and(late_until < now()) FROM attachments")
        return found.fetchone() == (True,)


def end_uploads(url: str) -> None:
    """As if the time in which uploads can come were over."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE attachments SET late_until = now(), sweep_at = now()")


def events(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT event_type FROM outbox ORDER BY id")]


@contextmanager
def without_patience(daemon: Daemon) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.url, timeout=10) as client:
        yield client


async def attach(daemon: Daemon) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        ticket = (await ticketd.post("/tickets", json=NEW)).json()
        return await Client(ticketd, ticket).attach()


async def upload_only(daemon: Daemon) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        ticket = (await ticketd.post("/tickets", json=NEW)).json()
        client = Client(ticketd, ticket)
        announced = await client.announce()
        assert (await client.upload(announced)).status_code == 200
        return announced


def path_of(found: dict[str, Any]) -> str:
    attachment = found.get("attachment", found)
    return f"/tickets/{attachment['ticket_id']}/attachments/{attachment['id']}"


def is_clean(url: str, storage: Storage) -> bool:
    return rows(url) == [] and storage.keys() == []


async def test_what_is_never_completed_goes_from_the_table_and_from_s3(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str, storage: Storage
) -> None:
    daemon = start_daemon("ticketd", environment | HASTY).wait_ready()
    await upload_only(daemon)
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        ticket = (await ticketd.post("/tickets", json=NEW)).json()
        await Client(ticketd, ticket).announce()  # and nothing comes
    wait_until(lambda: is_clean(database_url, storage), 20, "clean store")
    assert events(database_url) == ["ticket.created"] * 2
    assert "ticketd_storage_objects_removed_total" in daemon.metrics()


async def test_killed_between_upload_and_completion(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str, storage: Storage
) -> None:
    daemon = start_daemon("ticketd", environment | HASTY).wait_ready()
    await upload_only(daemon)
    daemon.kill()
    assert len(rows(database_url)) == len(storage.keys()) == 1
    daemon.start().wait_ready()
    wait_until(lambda: is_clean(database_url, storage), 20, "clean store")


async def test_killed_in_the_midst_of_a_completion_it_is_done_again_once(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str
) -> None:
    daemon = start_daemon("ticketd", environment).wait_ready()
    announced = await upload_only(daemon)
    with held_up(database_url, "UPDATE", then_ended=True) as database:
        with pytest.raises(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=daemon.url, timeout=0.5) as ticketd:
                await ticketd.post(f"{path_of(announced)}/complete")
        wait_until(lambda: how_many_wait(database) > 0, 10, "waiting statement")
        daemon.kill()
    assert events(database_url) == ["ticket.created"]
    daemon.start().wait_ready()
    with without_patience(daemon) as client:
        for _ in range(2):
            assert client.post(f"{path_of(announced)}/complete").status_code == 200
    assert events(database_url) == ["ticket.created", "ticket.attachment_added"]


async def test_killed_between_the_mark_and_the_deletion_of_the_object(
    start_daemon: StartDaemon,
    own_storage: Storage,
    database_url: str,
) -> None:
    settings = own_storage.settings | {"DATABASE_URL": database_url} | HASTY
    daemon = start_daemon("ticketd", settings).wait_ready()
    attachment = await attach(daemon)
    wait_until(lambda: no_upload_can_come(database_url), 20, "end of the time for uploads")
    own_storage.server.stop()
    with without_patience(daemon) as client:
        assert client.delete(path_of(attachment)).status_code == 204
    wait_until(lambda: daemon.events("storage_away"), 10, "attempt to delete the object")
    daemon.kill()
    ((_, state),) = rows(database_url)
    assert state == "removing"
    own_storage.server.start()
    own_storage.server.wait_ready()
    assert own_storage.keys() == [key_of(attachment)]
    daemon.start().wait_ready()
    wait_until(lambda: is_clean(database_url, own_storage), 20, "clean store")
    assert events(database_url)[1:] == ["ticket.attachment_added", "ticket.attachment_removed"]


async def test_killed_between_the_deletion_of_the_object_and_of_the_row(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str, storage: Storage
) -> None:
    daemon = start_daemon("ticketd", environment | HASTY).wait_ready()
    attachment = await attach(daemon)
    wait_until(lambda: no_upload_can_come(database_url), 20, "end of the time for uploads")
    with held_up(database_url, "DELETE", then_ended=True) as database:
        with without_patience(daemon) as client:
            assert client.delete(path_of(attachment)).status_code == 204
        wait_until(lambda: how_many_wait(database) > 0, 20, "waiting statement")
        assert storage.keys() == []
        daemon.kill()
    assert len(rows(database_url)) == 1
    daemon.start().wait_ready()
    wait_until(lambda: is_clean(database_url, storage), 20, "clean store")


async def test_upload_that_comes_after_its_deletion_is_deleted_as_well(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str, storage: Storage
) -> None:
    long = {"TICKETD_ATTACHMENT_UPLOAD_TTL": "10m"}
    daemon = start_daemon("ticketd", environment | HASTY | long).wait_ready()
    announced = await upload_only(daemon)
    with without_patience(daemon) as client:
        assert client.delete(path_of(announced)).status_code == 204
    wait_until(lambda: storage.keys() == [], 10, "deleted object")
    upload = announced["upload"]
    late = httpx.put(upload["url"], headers=upload["headers"], content=CONTENT)
    assert late.status_code == 200
    end_uploads(database_url)
    wait_until(lambda: is_clean(database_url, storage), 20, "clean store")


async def test_sweepers_of_several_processes_share_what_is_due(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str, storage: Storage
) -> None:
    daemons = [start_daemon("ticketd", environment | HASTY).wait_ready() for _ in range(2)]
    async with httpx.AsyncClient(base_url=daemons[0].url) as ticketd:
        for _ in range(15):
            client = Client(ticketd, (await ticketd.post("/tickets", json=NEW)).json())
            for _ in range(10):
                await client.announce()
    wait_until(lambda: is_clean(database_url, storage), 30, "clean store")
    assert [event for daemon in daemons for event in daemon.events("sweep_failed")] == []
