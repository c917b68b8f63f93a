"""The routes: each handler turns a request into a command, has the store carry it out, and
answers with what was committed."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import orjson

from servicedesk.bucket import bucket_of
from servicedesk.correlation import correlation_headers
from ticketd import idempotency, tickets, validation
from ticketd.arguments import JSON, identifier, refuse_parameters, require_type
from ticketd.conditional import entity_tag, expected_versions, is_current
from ticketd.cursor import Cursors
from ticketd.errors import Header, PreconditionRequiredError
from ticketd.events import CREATED, TicketEvent, change_event
from ticketd.idempotency import REPLAYED, Kept, read_key
from ticketd.identifiers import (
    HIGHEST,
    LOWEST,
    IdentifierSource,
    first_after,
    first_not_before,
    moment_of,
)
from ticketd.messages import (
    JSON_HEADERS,
    NOT_MODIFIED_HEADERS,
    HeaderBlock,
    Request,
    Response,
)
from ticketd.representation import page_json, ticket_json
from ticketd.store import Describe, TicketStore
from ticketd.tickets import NewTicket, Ticket, TicketQuery, Versions

# Of the 36 characters of the id in what ticket_json writes.
ID_IN_JSON = slice(7, 43)
JSON_PATCH = (b"application/merge-patch+json", b"application/json")


class Created:
    """The headers of a new ticket's answer. Only the form that the server asks for is made."""

    __slots__ = ("_id",)

    def __init__(self, ticket_id: bytes) -> None:
        self._id = ticket_id

    @property
    def pairs(self) -> Sequence[Header]:
        return ((b"etag", b'"1"'), (b"location", b"/tickets/" + self._id))

    @property
    def lines(self) -> bytes:
        return b'etag: "1"\r\nlocation: /tickets/%b\r\n' % self._id


class TicketHandlers:
    """Handlers of the ticket routes. `now` is UTC."""

    def __init__(
        self,
        *,
        store: TicketStore,
        identifiers: IdentifierSource,
        cursors: Cursors,
        now: Callable[[], datetime],
        require_if_match: bool,
    ) -> None:
        self._store = store
        self._identifiers = identifiers
        self._cursors = cursors
        self._now = now
        self._require_if_match = require_if_match

    async def create(self, request: Request) -> Response:
        refuse_parameters(request)
        require_type(request, JSON)
        body = await request.body()
        new = validation.parse_new_ticket(body)
        given_key = request.headers.get(idempotency.HEADER)
        ticket_id = self._identifiers.next()
        ticket = tickets.open_ticket(new, ticket_id, moment_of(ticket_id))
        document = ticket_json(ticket)
        # The id is the first member, and writing it once more would cost more than reading it.
        id_text = document[ID_IN_JSON]
        event = TicketEvent(
            bucket=bucket_of(id_text.decode()),
            event_id=self._identifiers.next(),
            event_type=CREATED,
            headers=correlation_headers(request.request_id, request.traceparent),
            payload=document,
        )
        if given_key is None:
            await self._store.create(ticket, event)
        else:
            key = read_key(given_key, request.caller, "create", body)
            first_id = await self._store.create_once(ticket, event, key)
            if first_id != ticket_id:
                return _replayed_creation(new, first_id)
        return Response(201, JSON_HEADERS, document, Created(id_text))

    async def read(self, request: Request) -> Response:
        refuse_parameters(request)
        version, body = await self._store.show(identifier(request.path_id, "id"))
        if_none_match = request.headers.get(b"if-none-match")
        if if_none_match is not None and is_current(if_none_match, version):
            return Response(304, NOT_MODIFIED_HEADERS, b"", entity_tag(version))
        return Response(200, JSON_HEADERS, body, entity_tag(version))

    async def list(self, request: Request) -> Response:
        parameters = validation.parse_parameters(request.query_string, validation.LIST_PARAMETERS)
        limit = int(parameters.get("limit", validation.DEFAULT_LIMIT))
        below_id = _below(parameters)
        if "cursor" in parameters:
            below_id = min(below_id, self._cursors.open(parameters["cursor"], parameters))
        found = await self._store.page(
            TicketQuery(
                status=parameters.get("status"),  # type: ignore[arg-type]  # checked against STATUSES
                priority=parameters.get("priority"),  # type: ignore[arg-type]  # and PRIORITIES
                assignee=parameters.get("assignee"),
                from_id=_from(parameters),
                below_id=below_id,
                limit=limit + 1,  # The one too many says that there is another page.
            )
        )
        page = found[:limit]
        more = len(found) > limit
        next_cursor = self._cursors.make(page[-1].id, parameters) if more else None
        return Response(200, JSON_HEADERS, page_json(page, next_cursor))

    async def update(self, request: Request) -> Response:
        refuse_parameters(request)
        ticket_id = identifier(request.path_id, "id")
        require_type(request, JSON_PATCH)
        expected = self._expected(request, required=self._require_if_match)
        members = validation.parse_patch(await request.body())
        change = partial(tickets.patch, members, expected, self._now())
        describe = self._describe(request, None)
        return _answer(await self._store.change(ticket_id, change, describe))

    async def close(self, request: Request) -> Response:
        refuse_parameters(request)
        ticket_id = identifier(request.path_id, "id")
        expected = self._expected(request, required=False)
        body = await request.body()
        if body:
            require_type(request, JSON)
        reason = validation.parse_closing(body)
        change = partial(tickets.close, expected, self._now())
        describe = self._describe(request, reason)
        given_key = request.headers.get(idempotency.HEADER)
        if given_key is None:
            return _answer(await self._store.change(ticket_id, change, describe))
        sent = request.headers.get(b"if-match", b"") + b"\n" + body
        key = read_key(given_key, request.caller, f"close {ticket_id}", sent)
        found = await self._store.change_once(ticket_id, change, describe, key)
        return _replayed_change(found) if isinstance(found, Kept) else _answer(found)

    def _describe(self, request: Request, reason: str | None) -> Describe:
        headers = correlation_headers(request.request_id, request.traceparent)
        return partial(change_event, self._identifiers.next(), headers, reason)

    def _expected(self, request: Request, *, required: bool) -> Versions:
        if_match = request.headers.get(b"if-match")
        if if_match is not None:
            return expected_versions(if_match)
        if required:
            raise PreconditionRequiredError
        return None


def _answer(ticket: Ticket) -> Response:
    return Response(200, JSON_HEADERS, ticket_json(ticket), entity_tag(ticket.version))


def _replayed_creation(new: NewTicket, first_id: UUID) -> Response:
    """The answer to the first request, made again: what it said is what this one says."""
    document = ticket_json(tickets.open_ticket(new, first_id, moment_of(first_id)))
    own = HeaderBlock(*Created(document[ID_IN_JSON]).pairs, REPLAYED)
    return Response(201, JSON_HEADERS, document, own)


def _replayed_change(kept: Kept) -> Response:
    document = kept.answer or b"{}"
    version = orjson.loads(document)["version"]
    return Response(200, JSON_HEADERS, document, HeaderBlock(*entity_tag(version).pairs, REPLAYED))


def _from(parameters: dict[str, str]) -> UUID:
    moment = validation.parse_moment(parameters.get("created_after", ""))
    return LOWEST if moment is None else first_after(moment)


def _below(parameters: dict[str, str]) -> UUID:
    moment = validation.parse_moment(parameters.get("created_before", ""))
    return HIGHEST if moment is None else first_not_before(moment)
