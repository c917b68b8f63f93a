"""S3 goes away and comes back: attachments wait for it, and nothing else does."""

import asyncio
import re
import signal
import time

import httpx
import pytest

from servicedesk.admin import DEGRADED
from tests.conftest import StartDaemon
from tests.support.storage import SECRET_KEY, Storage
from tests.ticketd.application import NEW, Running, running, until
from tests.ticketd.attachments.conversation import Client, announcement, client_of

# Short for a store that is frozen, and long for one on a busy machine.
TIMEOUT_SECONDS = 2.0
CALLS = re.compile(
    r'^ticketd_storage_call_seconds_count\{(?!.*operation="probe").*\} (\S+)$', re.MULTILINE
)


@pytest.fixture
def own_environment(own_storage: Storage, database_url: str) -> dict[str, str]:
    limits = {"S3_TIMEOUT": f"{TIMEOUT_SECONDS}s", "TICKETD_ATTACHMENT_SWEEP": "200ms"}
    return own_storage.settings | {"DATABASE_URL": database_url} | limits


async def storage_metric(app: Running) -> str:
    text = (await app.client.get("/metrics")).text
    return next(line for line in text.splitlines() if line.startswith("ticketd_storage_up"))


async def calls(app: Running) -> float:
    """To the store, but for those that ask whether it is back."""
    return sum(map(float, CALLS.findall((await app.client.get("/metrics")).text)))


def refused(answer: httpx.Response) -> bool:
    is_refused = answer.status_code == 503 and answer.json()["code"] == "storage_unavailable"
    return is_refused and 1 <= int(answer.headers["retry-after"]) <= 60


async def assert_all_but_the_store(app: Running, client: Client) -> None:
    """Tickets, the list of attachments, readiness: all as ever."""
    ticket = await app.create()
    assert (await app.patch(ticket, priority="high")).status_code == 200
    assert len(await client.listed()) == 1
    ready = await app.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["database"] == "ok"


async def assert_degraded(app: Running) -> None:
    """Ready all the same."""
    ready = await app.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["storage"].startswith(DEGRADED)
    assert await storage_metric(app) == "ticketd_storage_up 0.0"


async def assert_well(app: Running) -> None:
    ready = await app.client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["storage"]) == (200, "ok")
    assert await storage_metric(app) == "ticketd_storage_up 1.0"


async def test_store_away_and_back(own_environment: dict[str, str], own_storage: Storage) -> None:
    # It refuses connections, so nobody waits for an answer in vain.
    patience = {"S3_TIMEOUT": "10s", "TICKETD_REQUEST_TIMEOUT": "60s"}
    async with running(own_environment | patience) as app:
        client = await client_of(app)
        kept, pending = await client.attach(), await client.announce()
        assert (await client.upload(pending)).status_code == 200
        assert await storage_metric(app) == "ticketd_storage_up 1.0"
        own_storage.server.stop()

        assert refused(await client.complete(pending))
        called = await calls(app)
        for _ in range(3):
            assert refused(await client.complete(pending))
            assert refused(await app.client.post(client.path, json=announcement()))
            assert refused(await app.client.get(client.path_of(kept)))
        assert await calls(app) == called > 0
        await assert_all_but_the_store(app, client)
        await assert_degraded(app)
        # Nobody sees it any more; its object waits for the store.
        assert (await client.delete(kept)).status_code == 204
        assert await client.listed() == []

        own_storage.server.start()
        own_storage.server.wait_ready()
        await until(lambda: is_up(app))
        assert (await client.complete(pending)).status_code == 200
        assert (await client.download(pending)).status_code == 200
        await until(lambda: has_objects(own_storage, 1))
        await assert_well(app)
        assert len(app.events("storage_away")) == len(app.events("storage_back")) == 1


async def is_up(app: Running) -> bool:
    return await storage_metric(app) == "ticketd_storage_up 1.0"


async def has_objects(storage: Storage, count: int) -> bool:
    return len(storage.keys()) == count


async def test_frozen_store_holds_nobody_up_for_longer_than_its_time_limit(
    own_environment: dict[str, str], own_storage: Storage
) -> None:
    async with running(own_environment) as app:
        client = await client_of(app)
        await client.attach()
        pending = await client.announce()
        child = own_storage.server.child
        assert child is not None
        child.send(signal.SIGSTOP)
        started = time.monotonic()
        waiting = asyncio.gather(*(client.complete(pending) for _ in range(10)))
        await assert_all_but_the_store(app, client)
        assert all(refused(answer) for answer in await waiting)
        # All at once, not one after the other.
        assert time.monotonic() - started < 10 * TIMEOUT_SECONDS
        called = await calls(app)
        assert refused(await client.complete(pending))
        assert await calls(app) == called > 0
        (line,) = app.events("storage_away")
        assert line["reason"] == "no answer in time"
        await assert_degraded(app)
        child.send(signal.SIGCONT)
        await until(lambda: is_up(app))
        assert (await client.complete(pending)).json()["code"] == "upload_missing"
        await assert_well(app)
        assert len(app.events("storage_back")) == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"S3_SECRET_KEY": "wrong"}, "answered 403 SignatureDoesNotMatch"),
        ({"S3_ACCESS_KEY": "nobody"}, "answered 403 InvalidAccessKeyId"),
        ({"S3_BUCKET": "no-such-bucket"}, "answered 404 NoSuchBucket"),
        ({"S3_ENDPOINT": "http://127.0.0.1:9"}, "unreachable: ClientConnectorError"),
    ],
)
async def test_wrong_settings_are_told_and_refused_until_a_restart_with_the_right_ones(
    environment: dict[str, str], settings: dict[str, str], reason: str
) -> None:
    async with running(environment | settings) as app:

        async def is_known() -> bool:
            return bool(app.events("storage_away"))

        await until(is_known)
        assert app.events("storage_away")[0]["reason"] == reason
        client = await client_of(app)
        answer = await app.client.post(client.path, json=announcement())
        assert refused(answer)
        assert reason not in answer.text
        assert SECRET_KEY not in app.stream.getvalue()
        await assert_degraded(app)
        assert await client.listed() == []
        assert len(app.events("storage_away")) == 1
    async with running(environment) as restarted:
        await until(lambda: is_up(restarted))
        client.ticketd = restarted.client
        assert (await client.download(await client.attach())).status_code == 200
        await assert_well(restarted)


async def test_admin_port_is_ready_but_degraded_without_the_store(
    start_daemon: StartDaemon, environment: dict[str, str]
) -> None:
    away = environment | {"S3_ENDPOINT": "http://127.0.0.1:9"}
    daemon = start_daemon("ticketd", away).wait_ready()
    async with httpx.AsyncClient() as client:

        async def is_degraded() -> bool:
            checks = (await client.get(f"{daemon.admin_url}/readyz")).json()["checks"]
            return str(checks["storage"]).startswith(DEGRADED)

        await until(is_degraded)
        ready = await client.get(f"{daemon.admin_url}/readyz")
        created = await client.post(f"{daemon.url}/tickets", json=NEW)
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert created.status_code == 201
    assert "ticketd_storage_up 0.0" in daemon.metrics()
