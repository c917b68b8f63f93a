"""Uploads end when they are said to, however long it takes to sign them."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from tests.support.storage import Storage
from tests.ticketd.application import until
from tests.ticketd.attachments.conversation import an_attachment, end_of, utc_now
from ticketd.attachments.bucket import Bucket, UploadOverError
from ticketd.attachments.credentials import Credentials, Source, fixed
from ticketd.attachments.metrics import AttachmentMetrics
from ticketd.config import Config

KEY = fixed("key", "secret", None)
SECOND = timedelta(seconds=1)


def bucket_of(
    storage: Storage, *, credentials: Source = KEY, now: Callable[[], datetime] = utc_now
) -> Bucket:
    values = storage.settings | {"DATABASE_URL": "postgresql://u:p@127.0.0.1:5432/d"}
    settings = Config.from_environment(values).attachments
    assert settings is not None
    return Bucket(settings, credentials, now, AttachmentMetrics(CollectorRegistry()))


async def until_later_than(moment: datetime) -> None:
    async def is_later() -> bool:
        return utc_now() > moment

    await until(is_later)


async def in_another_second() -> Credentials:
    """As when a role is asked over the network."""
    await until_later_than(utc_now() + SECOND)
    return await KEY()


async def test_time_for_credentials_is_not_added_to_that_for_the_upload(storage: Storage) -> None:
    bucket = bucket_of(storage, credentials=in_another_second)
    expires_at = utc_now().replace(microsecond=0) + 60 * SECOND
    for given in (expires_at, None):
        upload = await bucket.sign_upload(an_attachment(), given)
        assert upload.expires_at == (given or upload.expires_at)
        assert end_of(upload.request.url) == upload.expires_at


async def test_tick_of_the_clock_while_it_is_signed_makes_no_upload_longer(
    storage: Storage,
) -> None:
    """At first the clock is a second behind that of the signer."""
    behind = [SECOND]

    def now() -> datetime:
        return utc_now() - (behind.pop() if behind else timedelta())

    expires_at = utc_now().replace(microsecond=0) + 60 * SECOND
    upload = await bucket_of(storage, now=now).sign_upload(an_attachment(), expires_at)
    assert end_of(upload.request.url) == expires_at
    assert behind == []


async def test_nothing_is_signed_for_a_moment_that_has_come(storage: Storage) -> None:
    expires_at = utc_now().replace(microsecond=0) + SECOND
    bucket = bucket_of(storage, credentials=in_another_second)
    with pytest.raises(UploadOverError):
        await bucket.sign_upload(an_attachment(), expires_at)
