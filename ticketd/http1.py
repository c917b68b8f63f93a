"""HTTP/1.1 on the event loop: a connection's bytes become requests, responses become bytes.

Requests of a connection are answered one after another, in their order. What bytes are requests is
told in parsing.py. Source: RFC 9112 (HTTP/1.1) and RFC 9110, 10.1.1 (100 Continue).
"""

import asyncio
from http import HTTPStatus
from typing import Protocol

from ticketd.errors import MalformedBodyError
from ticketd.exchange import Exchange
from ticketd.messages import BODILESS, Response, client_of
from ticketd.middleware import Pipeline
from ticketd.parsing import RequestReader
from ticketd.unsent import unsent_bytes

# So much is parsed at once. What may be thousands of small requests becomes requests only as they
# are answered, and other connections have their turn between.
PORTION_BYTES = 16 * 1024
# After a last answer, what the client still sends is read for so long: closing at once could take
# the answer from it (RFC 9112, 9.6).
LINGER_SECONDS = 2.0
# An interrupted request that does not end is interrupted again.
GRACE_SECONDS = 1.0
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
    quiet_seconds: float
    is_stopping: bool

    def enter(self, connection: "Connection") -> bool:
        """False when there are too many."""

    def leave(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """One client. At most one request is worked on; what else has arrived waits, and nothing more
    is read meanwhile. `_rest` is what has arrived and is not yet parsed."""

    _transport: asyncio.Transport
    _active: Exchange | None = None
    _client = b""
    _rest = b""
    _is_starting = False
    _is_paused = False
    _is_choked = False
    _is_lingering = False
    _has_eof = False
    _unsent_bytes = 0

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reader = RequestReader()
        self._since = host.now

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP
        self._client = client_of(transport.get_extra_info("peername"))
        if not self._host.enter(self):
            self._host.pipeline.count_refused_connection()
            self._reader.is_deaf = True
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader.is_deaf:
            return
        if len(data) > PORTION_BYTES:
            self._rest = data
            self._is_paused = True
            self._transport.pause_reading()
            self._read_on()
            return
        if self._active is None and not reader.is_in_the_midst:
            self._since = self._host.now
        if not reader.feed(data) and not self._will_answer(reader.reading):
            self._transport.close()
        if self._active is not None:
            self._active.wake()
        self._start_next()

    def _will_answer(self, exchange: Exchange | None) -> bool:
        """False for a request whose answer is given and whose body has then gone wrong."""
        return exchange in {None, self._active} or exchange in self._reader.waiting

    def _read_on(self) -> None:
        """The next portion, unless requests wait already: the last of them to start comes here."""
        if self._rest and not self._reader.waiting:
            portion, self._rest = self._rest[:PORTION_BYTES], self._rest[PORTION_BYTES:]
            self.data_received(portion)

    def eof_received(self) -> bool:
        """A client that closes its side in the middle of a body hears about it; one that closes it
        while it waits for an answer has gone."""
        reading = self._reader.reading
        if reading is None or reading is not self._active or self._is_lingering:
            return False
        self._has_eof = True
        self._reader.refuse(MalformedBodyError("The body ended before its announced length"))
        reading.wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._reader.is_deaf = True
        self._rest = b""
        self._reader.waiting.clear()
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
        if self._active is None:
            self._note_progress()
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
        elif self._is_choked or self._reader.is_in_the_midst:
            limit = self._host.header_seconds
        else:
            limit = self._host.idle_seconds
        if self._host.is_stopping:
            limit = min(limit, LINGER_SECONDS)
        if stood_seconds > limit:
            self._transport.abort()

    def _note_progress(self) -> None:
        """A client that takes what was written is not one that stands still."""
        unsent = unsent_bytes(self._transport)
        if unsent < self._unsent_bytes:
            self._since = self._host.now
        self._unsent_bytes = unsent

    def close_when_idle(self) -> None:
        """When no whole head has arrived, and nothing for a while: one may be on its way, and its
        client would not know whether it was heard (RFC 9112, 9.5). The next answer is the last."""
        is_idle = self._active is None and not self._reader.waiting and not self._rest
        is_quiet = self._host.now - self._since >= self._host.quiet_seconds
        if is_idle and is_quiet and not self._is_lingering:
            self._reader.is_deaf = True
            self._transport.close()

    # The answers.

    def _start_next(self) -> None:
        if self._is_starting:
            return
        self._is_starting = True
        while self._reader.waiting and self._active is None and not self._is_choked:
            exchange = self._active = self._reader.waiting.popleft()
            exchange.client = self._client
            self._since = self._host.now
            exchange.start(self._host.pipeline, self._answer, self._ask_for_body)
        self._is_starting = False
        if bool(self._reader.waiting) != self._is_paused:
            self._turn_reading()

    def _turn_reading(self) -> None:
        if self._rest and not self._reader.waiting:
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
            self._reader.is_deaf or self._is_paused or not exchange.is_complete
        )
        self._rest = b""
        self._reader.waiting.clear()
        self._reader.is_deaf = True
        if more_may_come:
            self._is_lingering = True
            try:
                self._transport.write_eof()
            except OSError:  # the client has gone, and the loop does not know it yet
                self._transport.abort()
            if self._is_paused:
                self._turn_reading()
        else:
            self._transport.close()

    def _ask_for_body(self) -> None:
        if self._reader.may_be_told_to_continue():
            self._transport.write(CONTINUE)


def _bytes(exchange: Exchange, response: Response, date_line: bytes, *, is_last: bool) -> bytes:
    body = response.body
    return b"%b%b%b%b%bx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINES[response.status],
        response.common.lines,
        response.own.lines,
        b"" if response.status in BODILESS else b"content-length: %d\r\n" % len(body),
        date_line,
        exchange.request_id.encode(),
        b"connection: close\r\n" if is_last else b"",
        b"" if exchange.method == "HEAD" else body,
    )
