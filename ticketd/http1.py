"""HTTP/1.1 on the event loop: a connection's bytes become requests, responses become bytes.

Parsing is llhttp's, through httptools. Requests of a connection are answered one after another, in
their order. Source: RFC 9112 (HTTP/1.1) and RFC 9110, 10.1.1 (100 Continue).
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

import httptools

from ticketd.errors import (
    HeadersTooLargeError,
    MalformedBodyError,
    MalformedRequestError,
    RequestError,
)
from ticketd.exchange import Exchange
from ticketd.messages import Response, header_lines
from ticketd.middleware import HEADERS_LIMIT_BYTES, Pipeline

# A head that is not over by then is not read on; the pipeline's limit, below it, names a header.
HEAD_LIMIT_BYTES = 64 * 1024
# After a last answer, what the client still sends is read for so long: closing at once could take
# the answer from it (RFC 9112, 9.6).
LINGER_SECONDS = 2.0
# A request line whose method llhttp does not know.
REQUEST_LINE = re.compile(
    rb"(?:\r\n)?([!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}) (/\S{0,2000}) HTTP/1\.[01]\r\n"
)
STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
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
    is read meanwhile."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._waiting: deque[Exchange] = deque()
        self._active: Exchange | None = None
        self._reading: Exchange | None = None
        self._upgrading: Exchange | None = None
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._headers_bytes = 0
        self._unread_head_bytes = 0
        self._since = host.now
        self._is_starting = False
        self._is_paused = False
        self._is_choked = False
        self._is_deaf = False
        self._has_eof = False
        self._is_lingering = False

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP
        if not self._host.enter(self):
            self._is_deaf = True
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._active is None and self._reading is None and not self._unread_head_bytes:
            self._since = self._host.now
        if self._reading is None:
            self._unread_head_bytes += len(data)
        self._feed(data)
        if self._reading is None and self._unread_head_bytes > HEAD_LIMIT_BYTES:
            self._refuse(HeadersTooLargeError(HEADERS_LIMIT_BYTES, "headers", HEAD_LIMIT_BYTES))
        if self._active is not None:
            self._active.wake()
        self._start_next()

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
        self._waiting.clear()
        if self._active is not None:
            self._host.pipeline.deadlines.leave(self._active)
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

    def check(self) -> None:
        """Close what has stood still for too long."""
        if self._active is not None and not self._is_choked:
            return
        stood_seconds = self._host.now - self._since
        if self._is_lingering:
            limit = LINGER_SECONDS
        elif self._is_choked or self._unread_head_bytes or self._reading is not None:
            limit = self._host.header_seconds
        else:
            limit = self._host.idle_seconds
        if stood_seconds > limit:
            self._transport.abort()

    def close_when_idle(self) -> None:
        """At once when no whole head has arrived; otherwise the next answer is the last."""
        if self._active is None and not self._waiting and not self._is_lingering:
            self._is_deaf = True
            self._transport.close()

    # The parser.

    def on_message_begin(self) -> None:
        if self._upgrading is None:
            self._url = b""
            self._headers = {}
            self._headers_bytes = 0
            self._unread_head_bytes = self._unread_head_bytes or 1

    def on_url(self, url: bytes) -> None:
        if self._upgrading is None:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._upgrading is None:
            name = name.lower()
            self._headers_bytes += len(name) + len(value)
            known = self._headers.get(name)
            self._headers[name] = value if known is None else known + b", " + value

    def on_headers_complete(self) -> None:
        self._unread_head_bytes = 0
        if self._upgrading is not None:
            self._reading, self._upgrading = self._upgrading, None
            return
        parser = self._parser
        target, _, query_string = self._url.partition(b"?")
        exchange = Exchange(
            parser.get_method().decode(),
            _path(target),
            query_string,
            self._headers,
            self._headers_bytes,
        )
        exchange.keep_alive = parser.should_keep_alive()
        exchange.refusal = self._defect()
        if parser.should_upgrade():
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

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._decline_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserInvalidMethodError:
            self._refuse_method(data)
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequestError(f"The request is not HTTP/1.1: {error}"))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1 (RFC 9110, 7.8). llhttp has stopped after the head, so a new parser
        is told how the body is framed and gets the rest."""
        exchange = self._upgrading
        if exchange is None or exchange.method == "CONNECT":
            self._upgrading = None
            if exchange is not None:
                exchange.is_complete, exchange.keep_alive = True, False
            self._is_deaf = True
            return
        framing = [
            (name, exchange.headers[name])
            for name in (b"content-length", b"transfer-encoding")
            if name in exchange.headers
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._feed(b"POST / HTTP/1.1\r\n" + header_lines(framing) + b"\r\n")
        if rest:
            self._feed(rest)

    def _defect(self) -> RequestError | None:
        """RFC 9112, 3.2: one Host, or none of HTTP/1.0."""
        host = self._headers.get(b"host")
        if host is None and self._parser.get_http_version() != "1.0":
            return MalformedRequestError("The request has no Host header")
        if host is not None and b"," in host:
            return MalformedRequestError("The request has more than one Host header")
        return None

    def _refuse_method(self, data: bytes) -> None:
        """A method unknown to llhttp gets the answer of any other that a path does not offer."""
        line = REQUEST_LINE.match(data)
        if line is None:
            self._refuse(MalformedRequestError("The request is not HTTP/1.1: invalid method"))
            return
        target, _, query_string = line[2].partition(b"?")
        exchange = Exchange(line[1].decode(), _path(target), query_string, {}, 0)
        self._waiting.append(exchange)
        self._is_deaf = True

    def _refuse(self, error: RequestError) -> None:
        """Answer what cannot be read, after everything before it, and read no more."""
        self._is_deaf = True
        if self._reading is not None:
            self._reading.break_off(error)
            if self._reading is not self._active:
                self._transport.close()
            return
        exchange = Exchange("", "", b"", {}, 0)
        exchange.refusal = error
        self._waiting.append(exchange)

    # The answers.

    def _start_next(self) -> None:
        if self._is_starting:
            return
        self._is_starting = True
        while self._waiting and self._active is None and not self._is_choked:
            exchange = self._active = self._waiting.popleft()
            pipeline = self._host.pipeline
            pipeline.deadlines.enter(exchange, self._expire)
            exchange.start(pipeline, self._answer, self._ask_for_body)
        self._is_starting = False
        if bool(self._waiting) != self._is_paused:
            self._is_paused = not self._is_paused
            if self._is_paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _answer(self, exchange: Exchange, response: Response) -> None:
        host = self._host
        host.pipeline.deadlines.leave(exchange)
        self._active = None
        self._since = host.now
        is_last = not exchange.keep_alive or host.is_stopping or not exchange.rest_can_be_skipped
        self._transport.write(_bytes(exchange, response, host.date_line, is_last=is_last))
        if is_last:
            self._end(exchange)
        else:
            self._start_next()

    def _end(self, exchange: Exchange) -> None:
        self._waiting.clear()
        more_may_come = not self._has_eof and (self._is_deaf or not exchange.is_complete)
        self._is_deaf = True
        if more_may_come:
            self._is_lingering = True
            self._transport.write_eof()
        else:
            self._transport.close()

    def _ask_for_body(self) -> None:
        self._transport.write(CONTINUE)

    def _expire(self) -> None:
        if self._active is not None:
            self._active.interrupt(self._host.pipeline.overdue(self._active))


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
    length = b"" if response.status == 304 else b"content-length: %d\r\n" % len(body)
    return b"%b%b%b%b%bx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINES[response.status],
        response.common.lines,
        header_lines(response.own) if response.own else b"",
        length,
        date_line,
        exchange.request_id.encode(),
        b"connection: close\r\n" if is_last else b"",
        b"" if exchange.method == "HEAD" else body,
    )


class HttpServer:
    """Listens on an address with connections that come and go, until it is stopped.

    `wall_clock` is time.time, `format_date` writes it as RFC 9110, 5.6.7 says.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        header_seconds: float,
        idle_seconds: float,
        connection_limit: int,
        wall_clock: Callable[[], float],
        format_date: Callable[[float], str],
    ) -> None:
        self.pipeline = pipeline
        self.header_seconds = header_seconds
        self.idle_seconds = idle_seconds
        self.is_stopping = False
        self._limit = connection_limit
        self._wall_clock = wall_clock
        self._format_date = format_date
        self._connections: set[Connection] = set()
        self._gone = asyncio.Event()
        self.now = 0.0
        self.date_line = b""
        self._look_at_clocks()

    async def start(self, host: str, port: int, *, backlog: int) -> int:
        """Returns the port, for which 0 lets the system choose. Several processes may listen on one
        address, and share its clients. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=backlog, reuse_port=True
        )
        chosen: int = self._listener.sockets[0].getsockname()[1]
        return chosen

    async def sweep(self) -> None:
        """Runs until it is cancelled: keeps the clocks and the time limits of connections."""
        pause = min(0.5, self.header_seconds / 5, self.idle_seconds / 5)
        while True:
            await asyncio.sleep(pause)
            self._look_at_clocks()
            for connection in list(self._connections):
                connection.check()

    async def stop(self) -> None:
        """Take no new connections, close idle ones, return when every request is answered."""
        self.is_stopping = True
        self._listener.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        while self._connections:
            self._gone.clear()
            await self._gone.wait()

    def enter(self, connection: Connection) -> bool:
        self._connections.add(connection)
        return len(self._connections) <= self._limit

    def leave(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._gone.set()

    def _look_at_clocks(self) -> None:
        self.now = asyncio.get_running_loop().time()
        date = self._format_date(self._wall_clock())
        self.date_line = f"date: {date}\r\n".encode()
