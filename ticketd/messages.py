"""A request as handlers see it, and a response, whichever server carries them."""

from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Protocol

from ticketd.errors import BodyTooLargeError, Header
from ticketd.tokens import ANYONE, Caller

BODY_LIMIT_BYTES = 256 * 1024
NOSNIFF = (b"x-content-type-options", b"nosniff")
NOT_STORED = (b"cache-control", b"no-store")


class Headers(Protocol):
    """Some headers of a response, as pairs and as the lines of HTTP/1.1."""

    @property
    def pairs(self) -> Sequence[Header]: ...

    @property
    def lines(self) -> bytes: ...


class HeaderBlock:
    """Headers that are made once and used often."""

    __slots__ = ("lines", "pairs")

    def __init__(self, *pairs: Header) -> None:
        self.pairs = pairs
        self.lines = header_lines(pairs)


def header_lines(pairs: Sequence[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


NO_HEADERS = HeaderBlock()
# RFC 9110, 8.6: answers that have no Content-Length because they never have a body.
BODILESS = frozenset({204, 304})
# A ticket may be kept, and must be asked for again with If-None-Match.
REVALIDATED = (b"cache-control", b"private, no-cache")
JSON_HEADERS = HeaderBlock((b"content-type", b"application/json"), NOSNIFF, REVALIDATED)
NOT_MODIFIED_HEADERS = HeaderBlock(NOSNIFF, REVALIDATED)


class Response:
    """A status, the headers common to its kind and its own, and a whole body. Content-Length and
    X-Request-Id are added when it is sent."""

    __slots__ = ("body", "common", "own", "status")

    def __init__(
        self, status: int, common: Headers, body: bytes, own: Headers = NO_HEADERS
    ) -> None:
        self.status = status
        self.common = common
        self.own = own
        self.body = body


class Request:
    """What a handler works on, less the way its body comes in.

    `headers` has lower-case names; of a header that came in several lines the values are joined
    by commas (RFC 9110, 5.3). `headers_bytes` are those of all names and values.
    """

    # What a request does not change costs it nothing in the class.
    path_id = ""
    part_id = ""
    caller: Caller = ANYONE
    # The client's address, of IPv6 the network that it can choose addresses from.
    client = b""
    request_id = ""
    traceparent = ""
    reading_body = False
    timed_out = False

    def __init__(
        self,
        method: str,
        path: str,
        query_string: bytes,
        headers: dict[bytes, bytes],
        headers_bytes: int,
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self.headers = headers
        self.headers_bytes = headers_bytes

    async def body(self) -> bytes:
        """The whole body, at most BODY_LIMIT_BYTES.

        Raises BodyTooLargeError as soon as that is certain, and MalformedBodyError when the
        client goes away before the end.
        """
        length = self.headers.get(b"content-length")
        # The server has refused what is not a number.
        if length is not None and int(length) > BODY_LIMIT_BYTES:
            raise BodyTooLargeError(BODY_LIMIT_BYTES)
        self.reading_body = True
        body = await self.read_body()
        self.reading_body = False
        return body

    async def read_body(self) -> bytes:
        """What `body` does, for a body of no announced or of an allowed length."""
        raise NotImplementedError


def client_of(address: Sequence[object] | None) -> bytes:
    """Request.client, from a socket's address: whoever has one address of IPv6 has 2^64 of them, so
    what counts is the network."""
    host = str(address[0]) if address else ""
    if ":" in host:
        try:
            return IPv6Address(host.partition("%")[0]).packed[:8].hex().encode()
        except ValueError:
            return b""
    return host.encode()


def combined(pairs: Sequence[Header]) -> dict[bytes, bytes]:
    """Headers by name; of repeated ones the values are joined (RFC 9110, 5.3)."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers.clear()
        for name, value in pairs:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
