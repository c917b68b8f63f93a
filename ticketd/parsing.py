"""From the bytes of a connection to its requests, in their order.

Parsing is llhttp's, through httptools; what it stops at is turned into requests that are refused,
so that they too are answered in their order. Source: RFC 9112 (HTTP/1.1).
"""

import re
from collections import deque
from urllib.parse import unquote_to_bytes

import httptools

from ticketd.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    MalformedRequestError,
    RequestError,
)
from ticketd.exchange import Exchange
from ticketd.messages import BODY_LIMIT_BYTES, header_lines
from ticketd.middleware import HEADERS_LIMIT_BYTES

# A head that is not over by then is not read on; the pipeline's limit, below it, names a header.
HEAD_LIMIT_BYTES = 64 * 1024
# A body with its framing: chunks may be as small as a byte, their extensions and the trailers must
# not go on for ever.
FRAMED_BODY_LIMIT_BYTES = 8 * BODY_LIMIT_BYTES
# A request line whose method llhttp does not know.
REQUEST_LINE = re.compile(
    rb"(?:\r\n)?([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}) (/\S{0,2000}) HTTP/1\.[01]\r\n"
)
METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")}
STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class RequestReader:
    """Puts requests into `waiting` as soon as their heads are over; `reading` is the one whose body
    still comes. `is_deaf` once nothing more can be read, or shall be: a last answer is due."""

    reading: Exchange | None = None
    unread_head_bytes = 0
    is_deaf = False
    _upgrading: Exchange | None = None
    _url = b""
    _headers_bytes = 0

    def __init__(self) -> None:
        self.waiting: deque[Exchange] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}

    @property
    def is_in_the_midst(self) -> bool:
        """Has a request begun whose end has not come?"""
        return self.reading is not None or bool(self.unread_head_bytes)

    def feed(self, data: bytes) -> bool:
        """False when nothing more can be read after it."""
        if self.reading is None:
            self.unread_head_bytes += len(data)
        else:
            self.reading.framed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except STOPS as error:
            # As long as no head of `data` was over, and none had begun before it.
            is_first = self.unread_head_bytes == len(data)
            self._stop(error, data, is_first=is_first)
        if self.reading is None:
            if self.unread_head_bytes > HEAD_LIMIT_BYTES:
                self.refuse(HeadersTooLargeError(HEADERS_LIMIT_BYTES, "headers", HEAD_LIMIT_BYTES))
        elif self.reading.framed_bytes > FRAMED_BODY_LIMIT_BYTES:
            self.refuse(BodyTooLargeError(BODY_LIMIT_BYTES))
        return not self.is_deaf

    def refuse(self, error: RequestError) -> None:
        """Answer what cannot be read, after everything before it, and read no more."""
        self.is_deaf = True
        if self.reading is not None:
            self.reading.break_off(error)
            return
        exchange = Exchange("", "", b"", {}, 0)
        exchange.refusal = error
        self.waiting.append(exchange)

    def may_be_told_to_continue(self) -> bool:
        """A client of HTTP/1.0 would take 100 for its answer (RFC 9110, 10.1.1)."""
        return self._parser.get_http_version() != "1.0"

    # What the parser calls.

    def on_url(self, url: bytes) -> None:
        self._url += url
        self.unread_head_bytes = self.unread_head_bytes or 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of trailers nothing is kept, least of all for the next request (RFC 9110, 6.5.1)."""
        if self.reading is None:
            name = name.lower()
            self._headers_bytes += len(name) + len(value)
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        self.unread_head_bytes = 0
        if self._upgrading is not None:
            self.reading, self._upgrading = self._upgrading, None
            self._url, self._headers, self._headers_bytes = b"", {}, 0
            return
        parser, headers = self._parser, self._headers
        method = parser.get_method()
        target, _, query_string = self._url.partition(b"?")
        exchange = Exchange(
            METHODS.get(method) or method.decode(),
            _path(target),
            query_string,
            headers,
            self._headers_bytes,
        )
        exchange.keep_alive = parser.should_keep_alive()
        if b"host" not in headers or b"," in headers[b"host"] or b"connection" in headers:
            self._look_closer(exchange)
        self._url, self._headers, self._headers_bytes = b"", {}, 0
        if b"upgrade" in headers and parser.should_upgrade():
            self._upgrading = exchange
        else:
            self.reading = exchange
        self.waiting.append(exchange)

    def on_body(self, chunk: bytes) -> None:
        if self.reading is not None:
            self.reading.feed(chunk)

    def on_message_complete(self) -> None:
        if self.reading is not None:
            self.reading.is_complete = True
            self.reading = None

    def _look_closer(self, exchange: Exchange) -> None:
        """RFC 9112, 3.2: one Host, or none of HTTP/1.0, whose connections are not kept alive."""
        host = exchange.headers.get(b"host")
        is_old = self._parser.get_http_version() == "1.0"
        if is_old:
            exchange.keep_alive = False
        if host is None and not is_old:
            exchange.refusal = MalformedRequestError("The request has no Host header")
        elif host is not None and b"," in host:
            exchange.refusal = MalformedRequestError("The request has more than one Host header")
        if exchange.refusal is not None:
            exchange.keep_alive = False

    def _stop(self, error: Exception, data: bytes, *, is_first: bool) -> None:
        """`is_first` when the head that cannot be read begins with `data`."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._decline_upgrade(data[error.args[0] :])
        elif is_first and isinstance(error, httptools.HttpParserInvalidMethodError):
            self._refuse_method(data)
        else:
            self.refuse(MalformedRequestError(f"The request is not HTTP/1.1: {error}"))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 (RFC 9110, 7.8). llhttp has stopped after the head, so a new parser
        is told how the body is framed and gets the rest, in which nobody offers that again."""
        exchange = self._upgrading
        if exchange is None:  # CONNECT, which is refused by its method
            self.is_deaf = True
            self.waiting[-1].keep_alive = False
            return
        framing = [
            (name, exchange.headers[name])
            for name in (b"content-length", b"transfer-encoding")
            if name in exchange.headers
        ]
        self._parser = httptools.HttpRequestParser(self)
        head = b"POST / HTTP/1.1\r\n" + header_lines(framing) + b"\r\n"
        try:
            self._parser.feed_data(head + rest)
        except httptools.HttpParserUpgrade:
            self.is_deaf = True
            refused = self.waiting[-1]
            refused.refusal = MalformedRequestError("The request offers an upgrade in a pipeline")
            refused.keep_alive = False
        except httptools.HttpParserError as error:
            self._stop(error, head + rest, is_first=False)

    def _refuse_method(self, data: bytes) -> None:
        """A method unknown to llhttp gets the answer of any other that a path does not offer."""
        line = REQUEST_LINE.match(data)
        if line is None:
            self.refuse(MalformedRequestError("The request is not HTTP/1.1: invalid method"))
            return
        target, _, query_string = line[2].partition(b"?")
        self.waiting.append(Exchange(line[1].decode(), _path(target), query_string, {}, 0))
        self.is_deaf = True


def _path(target: bytes) -> str:
    """The path of origin-form, absolute-form or any other target (RFC 9112, 3.2), decoded."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if separator:
            target = b"/" + rest.partition(b"/")[2]
    if b"%" in target:
        target = unquote_to_bytes(target)
    return target.decode("utf-8", "replace")
