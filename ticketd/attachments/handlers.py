"""The routes of attachments. What is long here is done in a task of its own (see errands.py), so
that a client that goes away leaves nothing half done.

A URL that a client gets is presigned, and so a secret: it is in the answer and nowhere else.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

from servicedesk.correlation import correlation_headers
from ticketd import idempotency, tickets
from ticketd.arguments import JSON, identifier, refuse_parameters, require_type
from ticketd.attachments.attachment import Attachment, Limits, NewAttachment
from ticketd.attachments.bucket import Bucket, Upload, UploadOverError
from ticketd.attachments.errands import Errand, Errands
from ticketd.attachments.health import StoreHealth
from ticketd.attachments.keyed import Announcement
from ticketd.attachments.parsing import parser
from ticketd.attachments.representation import (
    ADDED,
    REMOVED,
    attachment_event,
    attachment_json,
    list_json,
    upload_json,
)
from ticketd.attachments.statements import Addition
from ticketd.attachments.store import AttachmentStore
from ticketd.errors import (
    AlreadyAttachedError,
    AttachmentNotFoundError,
    Header,
    UploadExpiredError,
    UploadMismatchError,
    UploadMissingError,
)
from ticketd.events import TicketEvent
from ticketd.idempotency import REPLAYED, Key, read_key
from ticketd.identifiers import IdentifierSource, moment_of
from ticketd.messages import NOSNIFF, NOT_STORED, HeaderBlock, Request, Response
from ticketd.tickets import Ticket

NOT_STORED_JSON = HeaderBlock((b"content-type", b"application/json"), NOSNIFF, NOT_STORED)
EMPTY = HeaderBlock(NOSNIFF, NOT_STORED)

Result = TypeVar("Result")


class AttachmentHandlers:
    """`now` is UTC. `note_change` is awaited in tasks. `removed` is called after each removal,
    whose object is still to be deleted. From an upload's last second it takes `late_seconds` until
    it is sure that none is under way."""

    def __init__(
        self,
        *,
        store: AttachmentStore,
        bucket: Bucket,
        health: StoreHealth,
        errands: Errands,
        identifiers: IdentifierSource,
        now: Callable[[], datetime],
        note_change: Callable[[UUID], Awaitable[None]],
        removed: Callable[[], None],
        limits: Limits,
        upload_seconds: float,
        late_seconds: float,
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._health = health
        self._errands = errands
        self._identifiers = identifiers
        self._now = now
        self._note_change = note_change
        self._removed = removed
        self._most = limits.most
        self._parse = parser(limits)
        self._upload_seconds = upload_seconds
        self._late_seconds = late_seconds

    async def announce(self, request: Request) -> Response:
        refuse_parameters(request)
        ticket_id = identifier(request.path_id, "id")
        require_type(request, JSON)
        body = await request.body()
        given_key = request.headers.get(idempotency.HEADER)
        if given_key is None:
            new = self._parse(body)
            self._health.require()
            return await self._errands.run(partial(self._announce, ticket_id, new))
        key = read_key(given_key, request.caller, f"attach {ticket_id}", body)
        return await self._errands.run(partial(self._announce_once, ticket_id, body, key))

    async def complete(self, request: Request) -> Response:
        ticket_id, attachment_id = self._ids(request)
        await request.body()
        self._health.require()
        headers = correlation_headers(request.request_id, request.traceparent)
        errand = partial(self._complete, ticket_id, attachment_id, headers)
        change = partial(self._changed, ticket_id, errand)
        attachment = await self._errands.join((ticket_id, attachment_id), change)
        return Response(200, NOT_STORED_JSON, attachment_json(attachment))

    async def list(self, request: Request) -> Response:
        refuse_parameters(request)
        ticket_id = identifier(request.path_id, "id")
        found = await self._errands.run(partial(self._store.list_ready, ticket_id))
        return Response(200, NOT_STORED_JSON, list_json(found))

    async def download(self, request: Request) -> Response:
        ticket_id, attachment_id = self._ids(request)
        self._health.require()
        errand = partial(self._download, ticket_id, attachment_id, request.method)
        url = await self._errands.run(errand)
        return Response(302, EMPTY, b"", HeaderBlock((b"location", url.encode())))

    async def remove(self, request: Request) -> Response:
        ticket_id, attachment_id = self._ids(request)
        headers = correlation_headers(request.request_id, request.traceparent)
        describe = self._describe(REMOVED, headers)
        touch = partial(tickets.touch, self._now())
        errand = partial(self._store.remove, ticket_id, attachment_id, touch, describe)
        await self._errands.run(partial(self._changed, ticket_id, errand))
        self._removed()
        return Response(204, EMPTY, b"")

    async def _changed(self, ticket_id: UUID, errand: Errand[Result]) -> Result:
        """A part of the errand, which may outlive its request: what is committed then must be made
        known as well."""
        try:
            result = await errand()
        except Exception:
            # It may have come after the commit.
            await self._note_change(ticket_id)
            raise
        await self._note_change(ticket_id)
        return result

    def _ids(self, request: Request) -> tuple[UUID, UUID]:
        refuse_parameters(request)
        return identifier(request.path_id, "id"), identifier(request.part_id, "attachment_id")

    async def _announce(self, ticket_id: UUID, new: NewAttachment) -> Response:
        addition, upload = await self._prepare(ticket_id, new)
        # No URL leaves before the row that the sweeper finds its object by.
        await self._store.add(addition)
        return _announced(addition.attachment, upload)

    async def _announce_once(self, ticket_id: UUID, body: bytes, key: Key) -> Response:
        # Always from the database: files are too rare for their keys to be in Redis as well. And
        # first of all: what was taken before is not held against today's limits.
        first = await self._store.find_announced(key)
        if first is None:
            new = self._parse(body)
            self._health.require()
            addition, upload = await self._prepare(ticket_id, new)
            own = Announcement(addition.attachment.id, upload.expires_at)
            first = await self._store.add_once(addition, own, key)
            if first == own:
                return _announced(addition.attachment, upload)
        return await self._announced_before(ticket_id, first)

    async def _prepare(self, ticket_id: UUID, new: NewAttachment) -> tuple[Addition, Upload]:
        """What is to be added, and its upload."""
        attachment_id = self._identifiers.next()
        attachment = Attachment(
            id=attachment_id,
            ticket_id=ticket_id,
            state="pending",
            created_at=moment_of(attachment_id),
            completed_at=None,
            **new._asdict(),
        )
        upload = await self._health.ask(self._bucket.sign_upload(attachment))
        late_seconds = self._upload_seconds + self._late_seconds
        return Addition(attachment, self._most, late_seconds), upload

    async def _announced_before(self, ticket_id: UUID, first: Announcement) -> Response:
        """The first answer again, and an upload that ends when the first one does: the row is only
        kept for that long. Raises UploadExpiredError and AlreadyAttachedError when it is over."""
        try:
            found = await self._store.get(ticket_id, first.attachment_id)
        except AttachmentNotFoundError:
            raise UploadExpiredError from None
        is_ready = found.state == "ready"
        over = AlreadyAttachedError(found.id) if is_ready else UploadExpiredError()
        if first.expires_at <= self._now():
            raise over  # also while the store is away
        self._health.require()
        announced = found._replace(state="pending", completed_at=None)
        signing = self._bucket.sign_upload(announced, first.expires_at)
        try:
            upload = await self._health.ask(signing)
        except UploadOverError:
            raise over from None
        return _announced(announced, upload, REPLAYED)

    async def _complete(self, ticket_id: UUID, attachment_id: UUID, headers: bytes) -> Attachment:
        found = await self._store.get(ticket_id, attachment_id)
        if found.state == "ready":
            return found
        await self._verify(found)
        now = self._now()
        ready = found._replace(state="ready", completed_at=now)
        describe = self._describe(ADDED, headers)
        return await self._store.complete(ready, partial(tickets.touch, now), describe)

    async def _verify(self, announced: Attachment) -> None:
        """Raises UploadMissingError, UploadMismatchError and StorageUnavailableError. A store that
        keeps no SHA-256 gives the object out once, which its size bounds."""
        stored = await self._health.ask(self._bucket.look(announced.key))
        if stored is None:
            raise UploadMissingError
        if stored.size != announced.size:
            detail = f"The upload has {stored.size} bytes, {announced.size} were announced"
            raise UploadMismatchError(detail)
        if stored.encoding:
            raise UploadMismatchError("The upload has a Content-Encoding, none was announced")
        digest = stored.sha256 or await self._health.ask(self._bucket.digest(announced.key))
        if digest is None:
            raise UploadMissingError
        if digest != announced.sha256:
            raise UploadMismatchError("The upload has another SHA-256 than was announced")

    async def _download(self, ticket_id: UUID, attachment_id: UUID, method: str) -> str:
        found = await self._store.get(ticket_id, attachment_id)
        if found.state != "ready":
            raise AttachmentNotFoundError(attachment_id)
        signed = await self._health.ask(self._bucket.sign_download(found, method))
        return signed.url

    def _describe(
        self, event_type: str, headers: bytes
    ) -> Callable[[Ticket, Attachment], TicketEvent]:
        event_id = self._identifiers.next()
        return partial(attachment_event, event_type, event_id, headers)


def _announced(attachment: Attachment, upload: Upload, *more: Header) -> Response:
    location = f"/tickets/{attachment.ticket_id}/attachments/{attachment.id}"
    own = HeaderBlock((b"location", location.encode()), *more)
    return Response(201, NOT_STORED_JSON, upload_json(attachment, upload), own)
