"""The ASGI vocabulary: a request as handlers see it, a response, the body and the lifespan.

Source: ASGI 3.0, HTTP and lifespan protocols.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol

from ticketd.errors import BodyTooLargeError, Header, MalformedBodyError
from ticketd.tokens import ANYONE, Caller

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODY_LIMIT_BYTES = 256 * 1024
NOSNIFF = (b"x-content-type-options", b"nosniff")
NOT_STORED = (b"cache-control", b"no-store")
JSON_HEADERS: tuple[Header, ...] = (
    (b"content-type", b"application/json"),
    NOSNIFF,
    # A ticket may be kept, and must be asked for again with If-None-Match.
    (b"cache-control", b"private, no-cache"),
)


class Response:
    """A status, headers and a whole body. Content-Length and X-Request-Id are added when it is
    sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Request:
    """What a handler works on. `headers` has lower-case names; of a header that came in several
    lines the values are joined by commas (RFC 9110, 5.3)."""

    __slots__ = (
        "caller",
        "headers",
        "method",
        "path",
        "path_id",
        "query_string",
        "reading_body",
        "receive",
        "request_id",
        "timed_out",
        "traceparent",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query_string: bytes = scope["query_string"]
        self.headers = _headers(scope["headers"])
        self.receive = receive
        self.path_id = ""
        self.caller: Caller = ANYONE
        self.request_id = ""
        self.traceparent = ""
        self.reading_body = False
        self.timed_out = False

    async def body(self) -> bytes:
        """The whole body, at most BODY_LIMIT_BYTES.

        Raises BodyTooLargeError as soon as that is certain, and MalformedBodyError when the
        client goes away before the end.
        """
        announced = _announced_bytes(self.headers)
        self.reading_body = True
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if len(body) != announced:
            body = await self._rest_of_body(message)
        self.reading_body = False
        return body

    async def _rest_of_body(self, message: Message) -> bytes:
        chunks = []
        received = 0
        while True:
            if message["type"] == "http.disconnect":
                raise MalformedBodyError("The body ended before its announced length")
            chunk = message.get("body", b"")
            received += len(chunk)
            if received > BODY_LIMIT_BYTES:
                raise BodyTooLargeError(BODY_LIMIT_BYTES)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)
            message = await self.receive()


def _headers(pairs: Sequence[Header]) -> dict[bytes, bytes]:
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers.clear()
        for name, value in pairs:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _announced_bytes(headers: dict[bytes, bytes]) -> int:
    """The Content-Length, -1 without one. The server has refused what is not a number."""
    length = headers.get(b"content-length")
    if length is None:
        return -1
    announced = int(length)
    if announced > BODY_LIMIT_BYTES:
        raise BodyTooLargeError(BODY_LIMIT_BYTES)
    return announced


class Service(Protocol):
    """What runs as long as the application does."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def run_lifespan(
    receive: Receive, send: Send, service: Service, report: Callable[[BaseException], None]
) -> None:
    """Start and stop `service` with the server. A failed start is answered as one: servers only
    log an exception here and would go on without the service."""
    await receive()
    try:
        await service.start()
    except Exception as error:
        report(error)
        await send({"type": "lifespan.startup.failed", "message": f"ticketd: {error}"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await service.stop()
    await send({"type": "lifespan.shutdown.complete"})
