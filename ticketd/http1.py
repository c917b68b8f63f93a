"""HTTP/1.1 on the event loop: a connection's bytes become requests, responses become bytes.

Parsing is llhttp's, through httptools. Requests of a connection are answered one after another, in
their order. Source: RFC 9112 (HTTP/1.1) and RFC 9110, 10.1.1 (100 Continue).
"""

import asyncio
import re
from collections import deque
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

import httptools

from ticketd.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    MalformedBodyError,
    MalformedRequestError,
    RequestError,
)
from ticketd.exchange import Exchange
from ticketd.messages import BODY_LIMIT_BYTES, Response, header_lines
from ticketd.middleware import HEADERS_LIMIT_BYTES, Pipeline

# A head that is not over by then is not read on; the pipeline's limit, below it, names a header.
HEAD_LIMIT_BYTES = 64 * 1024
# A body with its framing: chunks may be as small as a byte, their extensions and the trailers must
# not go on for ever.
FRAMED_BODY_LIMIT_BYTES = 8 * BODY_LIMIT_BYTES
# So much is parsed at once. What may be thousands of small requests becomes requests only as they
# are answered, and other connections have their turn between.
PORTION_BYTES = 16 * 1024
# After a last answer, what the client still sends is read for so long: closing at once could take
# the answer from it (RFC 9112, 9.6).
LINGER_SECONDS = 2.0
# An interrupted request that does not end is interrupted again.
GRACE_SECONDS = 1.0
# A request line whose method llhttp does not know.
REQUEST_LINE = re.compile(
    rb"(?:\r\n)?([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}) (/\S{0,2000}) HTTP/1\.[01]\r\n"
)
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")}
STOPS = (httptools.HttpParserError, httptools.HttpParserUpgrade)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(Protocol):
    """What a connection needs of its server. `now` is a clock in seconds, some tenths late;
    `date_line` is the Date header."""

    pipeline: Pipeline
    now: float
    date_line: bytes
    header_seconds: float
    idle_seconds: float
    is_stopping: bool

    def enter(self, connection: "Connection") -> bool:
        """False when there are too many."""

    def leave(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """One client. At most one request is worked on; what else has arrived waits, and nothing more
    is read meanwhile. `_rest` is what has arrived and is not yet parsed."""

    _transport: asyncio.Transport
    _active: Exchange | None = None
    _reading: Exchange | None = None
    _upgrading: Exchange | None = None
    _rest = b""
    _url = b""
    _headers_bytes = 0
    _unread_head_bytes = 0
    _is_starting = False
    _is_paused = False
    _is_choked = False
    # Nothing more is read: a last answer is due, or given and lingered over, or the client is gone.
    _is_deaf = False
    _is_lingering = False
    _has_eof = False

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._since = host.now

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP
        if not self._host.enter(self):
            self._is_deaf = True
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if len(data) > PORTION_BYTES:
            self._rest = data
            self._is_paused = True
            self._transport.pause_reading()
            self._read_on()
            return
        if self._reading is None:
            if self._active is None and not self._unread_head_bytes:
                self._since = self._host.now
            self._unread_head_bytes += len(data)
        else:
            self._reading.framed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except STOPS as error:
            # As long as no head of `data` was over, and none had begun before it.
            is_first = self._unread_head_bytes == len(data)
            self._stop_parsing(error, data, is_first=is_first)
        if self._reading is None:
            if self._unread_head_bytes > HEAD_LIMIT_BYTES:
                self._refuse(HeadersTooLargeError(HEADERS_LIMIT_BYTES, "headers", HEAD_LIMIT_BYTES))
        elif self._reading.framed_bytes > FRAMED_BODY_LIMIT_BYTES:
            self._refuse(BodyTooLargeError(BODY_LIMIT_BYTES))
        if self._active is not None:
            self._active.wake()
        self._start_next()

    def _read_on(self) -> None:
        """The next portion, unless requests wait already: the last of them to start comes here."""
        if self._rest and not self._waiting:
            portion, self._rest = self._rest[:PORTION_BYTES], self._rest[PORTION_BYTES:]
            self.data_received(portion)

    def eof_received(self) -> bool:
        """A client that closes its side in the middle of a body hears about it; one that closes it
        while it waits for an answer has gone."""
        if self._reading is None or self._reading is not self._active or self._is_lingering:
            return False
        self._has_eof = True
        self._is_deaf = True
        self._reading.break_off(MalformedBodyError("The body ended before its announced length"))
        self._reading.wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_deaf = True
        self._rest = b""
        self._waiting.clear()
        if self._active is not None:
            self._host.pipeline.count_abandoned()
            self._active.abandon()
            self._active = None
        self._host.leave(self)

    def pause_writing(self) -> None:
        self._is_choked = True
        self._since = self._host.now

    def resume_writing(self) -> None:
        self._is_choked = False
        self._since = self._host.now
        self._start_next()

    # The server.

    @property
    def is_working(self) -> bool:
        return self._active is not None

    def check(self) -> None:
        """End what has stood still for too long."""
        stood_seconds = self._host.now - self._since
        exchange, pipeline = self._active, self._host.pipeline
        if exchange is not None:
            limit = pipeline.request_seconds + (GRACE_SECONDS if exchange.timed_out else 0.0)
            if stood_seconds > limit:
                exchange.timed_out = True
                exchange.interrupt(pipeline.overdue(exchange))
            return
        if self._is_lingering and not self._is_choked:
            limit = LINGER_SECONDS
        elif self._is_choked or self._unread_head_bytes or self._reading is not None:
            limit = self._host.header_seconds
        else:
            limit = self._host.idle_seconds
        if stood_seconds > limit:
            self._transport.abort()

    def close_when_idle(self) -> None:
        """At once when no whole head has arrived; otherwise the next answer is the last."""
        is_idle = self._active is None and not self._waiting and not self._rest
        if is_idle and not self._is_lingering:
            self._is_deaf = True
            self._transport.close()

    # The parser.

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._unread_head_bytes = self._unread_head_bytes or 1

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of trailers nothing is kept, least of all for the next request (RFC 9110, 6.5.1)."""
        if self._reading is None:
            name = name.lower()
            self._headers_bytes += len(name) + len(value)
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        self._unread_head_bytes = 0
        if self._upgrading is not None:
            self._reading, self._upgrading = self._upgrading, None
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
            self._reading = exchange
        self._waiting.append(exchange)

    def on_body(self, chunk: bytes) -> None:
        if self._reading is not None:
            self._reading.feed(chunk)

    def on_message_complete(self) -> None:
        if self._reading is not None:
            self._reading.is_complete = True
            self._reading = None

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

    def _stop_parsing(self, error: Exception, data: bytes, *, is_first: bool) -> None:
        """`is_first` when the head that cannot be read begins with `data`."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._decline_upgrade(data[error.args[0] :])
        elif is_first and isinstance(error, httptools.HttpParserInvalidMethodError):
            self._refuse_method(data)
        else:
            self._refuse(MalformedRequestError(f"The request is not HTTP/1.1: {error}"))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 (RFC 9110, 7.8). llhttp has stopped after the head, so a new parser
        is told how the body is framed and gets the rest, in which nobody offers that again."""
        exchange = self._upgrading
        if exchange is None:  # CONNECT, which is refused by its method
            self._is_deaf = True
            self._waiting[-1].keep_alive = False
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
            self._is_deaf = True
            refused = self._waiting[-1]
            refused.refusal = MalformedRequestError("The request offers an upgrade in a pipeline")
            refused.keep_alive = False
        except httptools.HttpParserError as error:
            self._stop_parsing(error, head + rest, is_first=False)

    def _refuse_method(self, data: bytes) -> None:
        """A method unknown to llhttp gets the answer of any other that a path does not offer."""
        line = REQUEST_LINE.match(data)
        if line is None:
            self._refuse(MalformedRequestError("The request is not HTTP/1.1: invalid method"))
            return
        target, _, query_string = line[2].partition(b"?")
        self._waiting.append(Exchange(line[1].decode(), _path(target), query_string, {}, 0))
        self._is_deaf = True

    def _refuse(self, error: RequestError) -> None:
        """Answer what cannot be read, after everything before it, and read no more."""
        self._is_deaf = True
        if self._reading is None:
            exchange = Exchange("", "", b"", {}, 0)
            exchange.refusal = error
            self._waiting.append(exchange)
            return
        self._reading.break_off(error)
        if self._reading is not self._active and self._reading not in self._waiting:
            self._transport.close()

    # The answers.

    def _start_next(self) -> None:
        if self._is_starting:
            return
        self._is_starting = True
        while self._waiting and self._active is None and not self._is_choked:
            exchange = self._active = self._waiting.popleft()
            self._since = self._host.now
            exchange.start(self._host.pipeline, self._answer, self._ask_for_body)
        self._is_starting = False
        if bool(self._waiting) != self._is_paused:
            self._turn_reading()

    def _turn_reading(self) -> None:
        if self._rest and not self._waiting:
            asyncio.get_running_loop().call_soon(self._read_on)
            return
        self._is_paused = not self._is_paused
        if self._is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _answer(self, exchange: Exchange, response: Response) -> None:
        host = self._host
        self._active = None
        self._since = host.now
        is_last = (
            not exchange.keep_alive
            or host.is_stopping
            or not (exchange.is_complete or exchange.rest_can_be_skipped)
        )
        self._transport.write(_bytes(exchange, response, host.date_line, is_last=is_last))
        if is_last:
            self._end(exchange)
        else:
            self._start_next()

    def _end(self, exchange: Exchange) -> None:
        more_may_come = not self._has_eof and (
            self._is_deaf or self._is_paused or not exchange.is_complete
        )
        self._rest = b""
        self._waiting.clear()
        self._is_deaf = True
        if more_may_come:
            self._is_lingering = True
            self._transport.write_eof()
            if self._is_paused:
                self._turn_reading()
        else:
            self._transport.close()

    def _ask_for_body(self) -> None:
        """A client of HTTP/1.0 would take 100 for its answer (RFC 9110, 10.1.1)."""
        if self._parser.get_http_version() != "1.0":
            self._transport.write(CONTINUE)


def _path(target: bytes) -> str:
    """The path of origin-form, absolute-form or any other target (RFC 9112, 3.2), decoded."""
    if not target.startswith(b"/"):
        _, separator, rest = target.partition(b"://")
        if separator:
            target = b"/" + rest.partition(b"/")[2]
    if b"%" in target:
        target = unquote_to_bytes(target)
    return target.decode("utf-8", "replace")


def _bytes(exchange: Exchange, response: Response, date_line: bytes, *, is_last: bool) -> bytes:
    body = response.body
    return b"%b%b%b%b%bx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINES[response.status],
        response.common.lines,
        response.own.lines,
        b"" if response.status == 304 else b"content-length: %d\r\n" % len(body),
        date_line,
        exchange.request_id.encode(),
        b"connection: close\r\n" if is_last else b"",
        b"" if exchange.method == "HEAD" else body,
    )
