"""One request of a connection: its body as it comes in, its coroutine as it goes on."""

from collections.abc import Callable, Coroutine
from typing import Any

from ticketd.errors import BodyTooLargeError, RequestError
from ticketd.messages import BODY_LIMIT_BYTES, Request, Response
from ticketd.middleware import Pipeline
from ticketd.pending import Pending

Finish = Callable[["Exchange", Response], None]


class Exchange(Request):
    """`keep_alive` is what the client asked for; `refusal` is the error of what could not be read
    as a request; `framed_bytes` is how much has come since its head, chunk sizes and all.

    The coroutine is driven by hand: it runs in the very call that brings what it waits for, without
    a task and its turns of the event loop. It may await nothing but Pendings.
    """

    keep_alive = False
    is_complete = False
    framed_bytes = 0
    refusal: RequestError | None = None
    _body = b""
    _received = 0
    _chunks: list[bytes] | None = None
    _error: RequestError | None = None
    _pending: Pending[None] | None = None
    _coroutine: Coroutine[Any, None, Response] | None = None
    _finish: Finish
    _ask: Callable[[], None]

    # As its connection sees it.

    def start(self, pipeline: Pipeline, finish: Finish, ask: Callable[[], None]) -> None:
        """`finish` is called once, perhaps at once, unless the exchange is abandoned. `ask` sends
        100 Continue."""
        self._finish = finish
        self._ask = ask
        if self.refusal is not None:
            finish(self, pipeline.refuse_unread(self.refusal, self))
        else:
            self._coroutine = pipeline.answer(self)
            self._go_on()

    def feed(self, chunk: bytes) -> None:
        """Beyond the limit nothing is kept."""
        self._received += len(chunk)
        if self._received > BODY_LIMIT_BYTES:
            self._body, self._chunks = b"", None
            self._error = self._error or BodyTooLargeError(BODY_LIMIT_BYTES)
        elif self._chunks is not None:
            self._chunks.append(chunk)
        elif self._body:
            self._chunks = [self._body, chunk]
        else:
            self._body = chunk

    def break_off(self, error: RequestError) -> None:
        """The rest of the body will not come."""
        self.keep_alive = False
        self._error = self._error or error

    def wake(self) -> None:
        """Let whoever waits for the body go on if there is reason to."""
        if self._pending is not None and (self.is_complete or self._error is not None):
            self._pending.settle(None)

    def interrupt(self, error: RequestError) -> None:
        """Raise an error where the request waits."""
        if self._coroutine is not None:
            self._go_on(error)

    def abandon(self) -> None:
        """End it where it waits, without an answer."""
        if self._coroutine is not None:
            self._coroutine.close()
            self._coroutine = None

    @property
    def rest_can_be_skipped(self) -> bool:
        """Will the rest of the body come for sure, and is it little enough to be thrown away? A
        client that was never told to continue may leave it out (RFC 9110, 10.1.1)."""
        length = self.headers.get(b"content-length")
        is_small = length is not None and int(length) <= BODY_LIMIT_BYTES
        return is_small and b"expect" not in self.headers

    def _go_on(self, error: RequestError | None = None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None  # noqa: S101 - only a started exchange waits for something
        try:
            pending: Pending[Any] = coroutine.throw(error) if error else coroutine.send(None)
        except StopIteration as end:
            self._coroutine = None
            self._finish(self, end.value)
        else:
            pending.when_settled(self._go_on)

    # As its handler sees it.

    async def body(self) -> bytes:
        # Most bodies come with their head.
        if self.is_complete and self._error is None and self._chunks is None:
            return self._body
        return await super().body()

    async def read_body(self) -> bytes:
        if not self.is_complete and self._error is None:
            if b"expect" in self.headers:
                self._ask()
            self._pending = Pending()
            await self._pending
        if self._error is not None:
            raise self._error
        return self._body if self._chunks is None else b"".join(self._chunks)
