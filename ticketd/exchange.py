"""One request of a connection: its body as it comes in, its coroutine as it goes on."""

from collections.abc import Callable

from ticketd.errors import BodyTooLargeError, RequestError
from ticketd.messages import BODY_LIMIT_BYTES, Request, Response
from ticketd.middleware import Pipeline
from ticketd.pending import Driven, Pending

Finish = Callable[["Exchange", Response], None]


class Exchange(Request):
    """`keep_alive` is what the client asked for; `refusal` is the error of what could not be read
    as a request."""

    __slots__ = (
        "_ask",
        "_chunks",
        "_driven",
        "_error",
        "_finish",
        "_pending",
        "_received",
        "is_complete",
        "keep_alive",
        "refusal",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query_string: bytes,
        headers: dict[bytes, bytes],
        headers_bytes: int,
    ) -> None:
        super().__init__(method, path, query_string, headers, headers_bytes)
        self.keep_alive = False
        self.is_complete = False
        self.refusal: RequestError | None = None
        self._ask: Callable[[], None] | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._error: RequestError | None = None
        self._pending: Pending[None] | None = None
        self._driven: Driven[Response] | None = None

    # As its connection sees it.

    def start(self, pipeline: Pipeline, finish: Finish, ask: Callable[[], None]) -> None:
        """`finish` is called once, perhaps at once, unless the exchange is abandoned. `ask` sends
        100 Continue."""
        self._finish = finish
        self._ask = ask
        if self.refusal is not None:
            finish(self, pipeline.refuse_unread(self.refusal, self))
            return
        self._driven = Driven(pipeline.answer(self), self._answered)
        self._driven.advance()

    def feed(self, chunk: bytes) -> None:
        """Beyond the limit nothing is kept."""
        self._received += len(chunk)
        if self._received <= BODY_LIMIT_BYTES:
            self._chunks.append(chunk)
        elif self._error is None:
            self._chunks.clear()
            self._error = BodyTooLargeError(BODY_LIMIT_BYTES)

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
        self.timed_out = True
        if self._driven is not None:
            self._driven.interrupt(error)

    def abandon(self) -> None:
        if self._driven is not None:
            self._driven.abandon()
            self._driven = None

    @property
    def rest_can_be_skipped(self) -> bool:
        """Will the rest of the body come for sure, and is it little enough to be thrown away? A
        client that was never told to continue may leave it out (RFC 9110, 10.1.1)."""
        length = self.headers.get(b"content-length")
        is_small = length is not None and int(length) <= BODY_LIMIT_BYTES
        return self.is_complete or (is_small and b"expect" not in self.headers)

    # As its handler sees it.

    async def read_body(self) -> bytes:
        if not self.is_complete and self._error is None:
            if self._ask is not None and b"expect" in self.headers:
                self._ask()
            self._pending = Pending()
            await self._pending
        if self._error is not None:
            raise self._error
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def _answered(self, response: Response) -> None:
        self._driven = None
        self._finish(self, response)
