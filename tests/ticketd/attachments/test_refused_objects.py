"""S3 refuses what is asked of one object: that fails, and the store is not taken for away."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import orjson

from tests.support.storage import Storage
from tests.ticketd.application import Running, running, until
from tests.ticketd.attachments.conversation import client_of, key_of

# So long that a busy machine is not taken for a store that is away.
SETTINGS = {
    "S3_TIMEOUT": "20s",
    "TICKETD_REQUEST_TIMEOUT": "60s",
    "TICKETD_ATTACHMENT_SWEEP": "200ms",
}
COUNT = 'ticketd_storage_call_seconds_count{operation="%s",outcome="failed"}'


@contextmanager
def denied(storage: Storage, action: str, key: str) -> Iterator[None]:
    """By a policy of the bucket, as somebody may have put it there."""
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": [f"s3:{action}"],
        "Resource": [f"arn:aws:s3:::{storage.bucket}/{key}"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    storage.client.put_bucket_policy(Bucket=storage.bucket, Policy=orjson.dumps(policy).decode())
    try:
        yield
    finally:
        storage.client.delete_bucket_policy(Bucket=storage.bucket)


async def was_refused(app: Running, operation: str, least: int) -> bool:
    lines = (await app.client.get("/metrics")).text.splitlines()
    found = [line for line in lines if line.startswith(COUNT % operation)]
    return bool(found) and float(found[0].split()[-1]) >= least


async def has_only(storage: Storage, *keys: str) -> bool:
    return storage.keys() == list(keys)


async def test_object_that_cannot_be_deleted_is_left_for_later_and_the_rest_goes_on(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment | SETTINGS) as app:
        client = await client_of(app)
        refused, other = await client.attach(), await client.attach()
        with denied(storage, "DeleteObject", key_of(refused)):
            for each in (refused, other):
                assert (await client.delete(each)).status_code == 204
            await until(partial(was_refused, app, "delete", 3), 30)
            await until(partial(has_only, storage, key_of(refused)), 30)
            kept = await client.attach()
            assert (await client.download(kept)).status_code == 200
        await until(partial(has_only, storage, key_of(kept)), 30)
        assert app.events("storage_away") == []
        reason = app.events("storage_refused")[0]["reason"]
        assert f"DELETE /{storage.bucket}/{key_of(refused)}: answered 403" in reason


async def test_upload_that_cannot_be_looked_at_fails_its_own_completion_only(
    environment: dict[str, str], storage: Storage
) -> None:
    async with running(environment | SETTINGS) as app:
        client = await client_of(app)
        announced = await client.announce()
        assert (await client.upload(announced)).status_code == 200
        with denied(storage, "GetObject", key_of(announced)):
            answer = await client.complete(announced)
            assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
            assert 1 <= int(answer.headers["retry-after"]) <= 4
            assert "403" not in answer.text
            await client.attach()
        assert (await client.complete(announced)).status_code == 200
        assert app.events("storage_away") == []
