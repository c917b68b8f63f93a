"""Where the store is, and with what credentials: path and virtual-hosted style, another endpoint
for clients, a profile instead of a key. And no secret of it in logs and events."""

from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from servicedesk.environment import SettingError
from tests.conftest import StartDaemon
from tests.support.storage import SECRET_KEY, Storage
from tests.ticketd.application import NEW, running
from tests.ticketd.attachments.conversation import (
    CONTENT,
    Client,
    an_attachment,
    client_of,
    utc_now,
)
from ticketd.attachments.bucket import Bucket
from ticketd.attachments.credentials import fixed
from ticketd.attachments.metrics import AttachmentMetrics
from ticketd.config import Config

DATABASE = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:5432/d"}


async def test_clients_are_sent_to_the_public_endpoint(
    environment: dict[str, str], storage: Storage
) -> None:
    port = urlsplit(storage.server.url()).port
    public = f"http://localhost:{port}"
    async with running(environment | {"S3_PUBLIC_ENDPOINT": f"{public}/"}) as app:
        client = await client_of(app)
        announced = await client.announce()
        assert announced["upload"]["url"].startswith(f"{public}/{storage.bucket}/")
        assert (await client.upload(announced)).status_code == 200
        assert (await client.complete(announced)).status_code == 200
        redirect = await app.client.get(client.path_of(announced))
        assert redirect.headers["location"].startswith(f"{public}/{storage.bucket}/")
        assert (await client.download(announced)).content == CONTENT


async def test_virtual_hosted_urls_are_signed_for_the_buckets_own_host(storage: Storage) -> None:
    """Without a name server that knows the bucket, the client connects to the store's address and
    says the host of the URL, as a proxy would."""
    here = urlsplit(storage.server.url())
    host = f"{storage.server.domain}:{here.port}"
    values = storage.settings | {"S3_ENDPOINT": f"http://{host}", "S3_ADDRESSING": "virtual"}
    settings = Config.from_environment(values | DATABASE).attachments
    assert settings is not None
    key = fixed(values["S3_ACCESS_KEY"], values["S3_SECRET_KEY"], None)
    bucket = Bucket(settings, key, utc_now, AttachmentMetrics(CollectorRegistry()))
    attachment = an_attachment()
    upload = (await bucket.sign_upload(attachment)).request
    download = await bucket.sign_download(attachment, "GET")
    for url in (upload.url, download.url):
        assert urlsplit(url).netloc == f"{storage.bucket}.{host}"
        assert urlsplit(url).path == f"/{attachment.key}"
    headers = upload.headers | {"Host": f"{storage.bucket}.{host}"}
    async with httpx.AsyncClient() as plain:
        there = upload.url.replace(headers["Host"], here.netloc)
        uploaded = await plain.put(there, headers=headers, content=CONTENT)
        assert uploaded.status_code == 200, uploaded.text
        there = download.url.replace(headers["Host"], here.netloc)
        downloaded = await plain.get(there, headers={"Host": headers["Host"]})
    assert downloaded.content == storage.read(attachment.key) == CONTENT


async def test_profile_of_the_machine_stands_in_for_a_key(
    start_daemon: StartDaemon, environment: dict[str, str], tmp_path: Path
) -> None:
    profile = tmp_path / "credentials"
    profile.write_text(
        f"[default]\naws_access_key_id = {environment.pop('S3_ACCESS_KEY')}\n"
        f"aws_secret_access_key = {environment.pop('S3_SECRET_KEY')}\n"
    )
    environment["AWS_SHARED_CREDENTIALS_FILE"] = str(profile)
    environment["AWS_EC2_METADATA_DISABLED"] = "true"
    daemon = start_daemon("ticketd", environment).wait_ready()
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        client = Client(ticketd, (await ticketd.post("/tickets", json=NEW)).json())
        attachment = await client.attach()
        assert (await client.download(attachment)).content == CONTENT


async def test_no_secret_is_in_logs_and_events(
    start_daemon: StartDaemon, environment: dict[str, str], database_url: str
) -> None:
    daemon = start_daemon("ticketd", environment | {"LOG_LEVEL": "debug"}).wait_ready()
    async with httpx.AsyncClient(base_url=daemon.url) as ticketd:
        client = Client(ticketd, (await ticketd.post("/tickets", json=NEW)).json())
        attachment = await client.attach()
        redirect = await ticketd.get(client.path_of(attachment))
        await client.delete(attachment)
    signature = redirect.headers["location"].rpartition("X-Amz-Signature=")[2]
    assert len(signature) == 64
    assert daemon.terminate() == 0
    with psycopg.connect(database_url) as connection:
        kept = connection.execute("SELECT * FROM outbox").fetchall()
        kept += connection.execute("SELECT * FROM attachments").fetchall()
    written = daemon.text() + str(kept)
    assert "/tickets/{id}/attachments/{attachment_id}" in written
    for secret in ("X-Amz", signature, SECRET_KEY):
        assert secret not in written


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"S3_BUCKET": "desk"}, "S3_BUCKET"),
        ({"S3_BUCKET": "desk", "S3_ACCESS_KEY": "a", **DATABASE}, "S3_SECRET_KEY"),
        ({"S3_BUCKET": "desk", "S3_SECRET_KEY": "a", **DATABASE}, "S3_ACCESS_KEY"),
        ({"S3_BUCKET": "b/c", **DATABASE}, "S3_BUCKET"),
        ({"S3_ENDPOINT": "127.0.0.1:8333"}, "S3_ENDPOINT"),
        ({"S3_ENDPOINT": "http://u:p@127.0.0.1:8333"}, "S3_ENDPOINT"),
        ({"S3_PUBLIC_ENDPOINT": "https://h/bucket"}, "S3_PUBLIC_ENDPOINT"),
        ({"S3_PUBLIC_ENDPOINT": "ftp://h"}, "S3_PUBLIC_ENDPOINT"),
        ({"S3_ADDRESSING": "dns"}, "S3_ADDRESSING"),
        ({"TICKETD_ATTACHMENT_TYPES": "image/*"}, "TICKETD_ATTACHMENT_TYPES"),
        ({"TICKETD_ATTACHMENT_LIMIT": "0"}, "TICKETD_ATTACHMENT_LIMIT"),
        ({"TICKETD_ATTACHMENT_MAX_BYTES": "6000000000"}, "TICKETD_ATTACHMENT_MAX_BYTES"),
        ({"TICKETD_ATTACHMENT_UPLOAD_TTL": "192h"}, "TICKETD_ATTACHMENT_UPLOAD_TTL"),
    ],
)
def test_wrong_setting_is_named(values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError) as refused:
        Config.from_environment(values)
    assert refused.value.name == named


def test_settings_of_aws_need_no_endpoint() -> None:
    config = Config.from_environment(DATABASE | {"S3_BUCKET": "desk", "S3_REGION": "eu-north-1"})
    assert config.attachments is not None
    assert config.attachments.endpoint == "https://s3.eu-north-1.amazonaws.com"
    assert config.attachments.addressing == "virtual"


def test_secrets_are_not_in_the_text_of_the_settings() -> None:
    keys = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "hush", "S3_SESSION_TOKEN": "quiet"}
    shown = repr(Config.from_environment(DATABASE | keys | {"S3_BUCKET": "desk"}))
    assert "hush" not in shown
    assert "quiet" not in shown
