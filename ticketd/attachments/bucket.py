"""The S3 bucket: presigned requests for clients, and the few calls that ticketd makes itself.

botocore signs, aiohttp carries. No secret leaves this module but in a URL that was asked for:
errors have the operation and a reason, never a URL or a header. Source: Amazon S3 API Reference.
"""

import asyncio
import hashlib
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from yarl import URL

from ticketd.attachments.attachment import Attachment
from ticketd.attachments.credentials import Credentials, NoCredentialsError, Source
from ticketd.attachments.disposition import content_disposition
from ticketd.attachments.settings import AttachmentSettings

PIECE_BYTES = 64 * 1024
# Reading a whole object back, for a store that keeps no checksums.
READING_SECONDS = 60.0
CODE_WITHIN_BYTES = 4096
CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
# No object has this key, and S3 says so to whom it lets in and who may list the bucket. Without
# that right it says AccessDenied, also for every upload that has not come yet.
NOWHERE = "tickets/nowhere"
SECOND = timedelta(seconds=1)


class StoreAwayError(Exception):
    """The store did not answer, or refuses all that ticketd asks; the text is the reason."""


class CallRefusedError(Exception):
    """The store answered, and refuses what was asked of one object; the text is the reason."""


class UploadOverError(Exception):
    """An upload that was to end at a moment that has come already."""


class SignedRequest(NamedTuple):
    """What a client sends to S3 itself. The URL is a secret until it expires."""

    method: str
    url: str
    headers: dict[str, str]


class Upload(NamedTuple):
    """Of a file to S3, and when that ends."""

    request: SignedRequest
    expires_at: datetime


class Stored(NamedTuple):
    """What the store has. `sha256` is None when it keeps no such checksum; `encoding` is the
    Content-Encoding that came with the upload, empty without one."""

    size: int
    sha256: bytes | None
    encoding: str


class CallObserver(Protocol):
    """Hears of every call: which, what came of it, and how long it took."""

    def call(self, operation: str, outcome: str, seconds: float) -> None: ...


class Bucket:
    """`run` has to run beside it. Every call raises StoreAwayError, and those on one
    object CallRefusedError. `now` is UTC."""

    def __init__(
        self,
        settings: AttachmentSettings,
        credentials: Source,
        now: Callable[[], datetime],
        observer: CallObserver,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._now = now
        self._observer = observer
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Holds the connections until it is cancelled."""
        # A proxy before the store may encode what it passes on; we want what the store has.
        async with aiohttp.ClientSession(
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as self._session:
            await asyncio.get_running_loop().create_future()

    async def sign_upload(
        self, attachment: Attachment, expires_at: datetime | None = None
    ) -> Upload:
        """For as long as is set, or until a moment that is a whole second; raises UploadOverError
        when that has come. Type, size and checksum are part of the signature: no other content
        can be uploaded with it where the store holds the body against them, as AWS, MinIO and
        SeaweedFS do. Headers that are left out cannot be signed: see `sign_download`."""
        headers = {
            "Content-Type": attachment.content_type,
            "Content-Length": str(attachment.size),
            "x-amz-checksum-sha256": b64encode(attachment.sha256).decode(),
        }
        keys = await self._keys()
        while True:
            second = self._second()
            end = expires_at or second + SECOND * int(self._settings.upload_seconds)
            if end <= second:
                raise UploadOverError
            seconds = (end - second) // SECOND
            url = self._presign(keys, "PUT", attachment.key, seconds=seconds, headers=headers)
            # botocore reads the clock by itself: a second later, and it would end a second later.
            if self._second() == second:
                return Upload(SignedRequest("PUT", url, headers), end)

    async def sign_download(self, attachment: Attachment, method: str) -> SignedRequest:
        """`method` is GET or HEAD. Name, type, caching and encoding are ours, whatever was
        uploaded with the content: with an encoding, browsers would save something else."""
        parameters = {
            "response-content-disposition": content_disposition(attachment.name),
            "response-content-type": attachment.content_type,
            "response-cache-control": "private, no-store",
            "response-content-encoding": "identity",
        }
        seconds = int(self._settings.download_seconds)
        keys = await self._keys()
        url = self._presign(keys, method, attachment.key, seconds=seconds, parameters=parameters)
        return SignedRequest(method, url, {})

    async def look(self, key: str) -> Stored | None:
        """None when there is no such object."""
        headers = {"x-amz-checksum-mode": "ENABLED"}
        async with self._call("head", "HEAD", key, headers=headers) as answer:
            if answer.status == 404:
                return None
            await self._require(answer, 200)
            checksum = answer.headers.get("x-amz-checksum-sha256", "")
            size = int(answer.headers.get("content-length", "-1"))
            return Stored(size, _digest(checksum), answer.headers.get("content-encoding", ""))

    async def digest(self, key: str) -> bytes | None:
        """SHA-256 of the whole object, read back in pieces; None when there is no such object."""
        async with self._call("read", "GET", key, seconds=READING_SECONDS) as answer:
            if answer.status == 404:
                return None
            await self._require(answer, 200)
            found = hashlib.sha256()
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                found.update(piece)
            return found.digest()

    async def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        async with self._call("delete", "DELETE", key) as answer:
            await self._require(answer, 204, 200, 404)

    async def probe(self) -> None:
        """Is the bucket there, and are we let in?"""
        async with self._call("probe", "GET", NOWHERE) as answer:
            code = await _code(answer)
            if code != "NoSuchKey":
                raise StoreAwayError(_refusal(answer.status, code))

    async def _require(self, answer: aiohttp.ClientResponse, *statuses: int) -> None:
        if answer.status not in statuses:
            # The path alone: there is a signature in the query.
            what = f"{answer.method} {answer.url.path}"
            raise CallRefusedError(f"{what}: {_refusal(answer.status, await _code(answer))}")

    def _second(self) -> datetime:
        return self._now().replace(microsecond=0)

    def _presign(
        self,
        keys: Credentials,
        method: str,
        key: str,
        *,
        seconds: int,
        headers: Mapping[str, str] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> str:
        url = self._url(self._settings.public_endpoint, key)
        request = AWSRequest(method=method, url=url, headers=headers, params=parameters)
        region = self._settings.region
        S3SigV4QueryAuth(keys, "s3", region, expires=seconds).add_auth(request)
        return str(request.prepare().url)

    def _url(self, endpoint: str, key: str) -> str:
        if self._settings.addressing == "path":
            return f"{endpoint}/{self._settings.bucket}/{key}"
        parts = urlsplit(endpoint)
        return f"{parts.scheme}://{self._settings.bucket}.{parts.netloc}/{key}"

    async def _keys(self) -> Credentials:
        try:
            return await self._credentials()
        except NoCredentialsError as error:
            raise StoreAwayError(str(error)) from None
        except Exception as error:  # the boundary of a library that asks files and the network
            raise StoreAwayError(f"no credentials: {type(error).__name__}") from None

    @asynccontextmanager
    async def _call(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A signed request of our own to the end of its answer: counted, timed, its errors made
        ours, because the library's may repeat a URL."""
        now = asyncio.get_running_loop().time
        started, outcome = now(), "failed"
        try:
            async with await self._send(method, key, headers or {}, seconds) as answer:
                yield answer
            outcome = "ok"
        except TimeoutError:
            raise StoreAwayError("no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise StoreAwayError(f"unreachable: {type(error).__name__}") from None
        finally:
            self._observer.call(operation, outcome, now() - started)

    async def _send(
        self, method: str, key: str, headers: Mapping[str, str], seconds: float | None
    ) -> aiohttp.ClientResponse:
        url = self._url(self._settings.endpoint, key)
        request = AWSRequest(method=method, url=url, headers=dict(headers))
        S3SigV4Auth(await self._keys(), "s3", self._settings.region).add_auth(request)
        if self._session is None:
            raise StoreAwayError("not started yet")
        return await self._session.request(
            method,
            URL(request.url, encoded=True),
            headers=dict(request.headers.items()),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=seconds or self._settings.call_seconds),
        )


def _digest(checksum: str) -> bytes | None:
    """A checksum of parts, as multipart uploads have, ends in -N and is none of the object."""
    with suppress(Base64Error, ValueError):
        found = b64decode(checksum, validate=True)
        return found if len(found) == 32 else None
    return None


async def _code(answer: aiohttp.ClientResponse) -> str:
    """S3's own word for an error; an answer to HEAD has none."""
    start = b""
    # A read returns what is there, perhaps no more than the XML declaration.
    while len(start) < CODE_WITHIN_BYTES and (piece := await answer.content.readany()):
        start += piece
    match = CODE.search(start)
    return match[1].decode() if match else ""


def _refusal(status: int, code: str) -> str:
    return f"answered {status}{f' {code}' if code else ''}"
