"""The application for any ASGI server: its messages become requests, responses become messages.

Every request runs in the server's task, and is cancelled with it. Source: ASGI 3.0, HTTP and
lifespan protocols.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from ticketd.errors import BodyTooLargeError, MalformedBodyError
from ticketd.messages import BODILESS, BODY_LIMIT_BYTES, Request, Response, client_of, combined
from ticketd.middleware import Pipeline

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Service(Protocol):
    """What runs as long as the application does."""

    async def start(self) -> None: ...

    def announce_stop(self) -> None: ...

    async def stop(self) -> None: ...


class Application:
    """`report` hears a failed start."""

    def __init__(
        self, pipeline: Pipeline, service: Service, report: Callable[[BaseException], None]
    ) -> None:
        self.pipeline = pipeline
        self.service = service
        self._report = report
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, self.service, self._report)
            return
        request = MessageRequest(scope, receive)
        await _send(request, await self._answer(request), send)

    async def _answer(self, request: Request) -> Response:
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # servers run requests in tasks

        def expire() -> None:
            request.timed_out = True
            task.cancel()

        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.pipeline.request_seconds, expire)
        self._count_working(1)
        try:
            response = await self.pipeline.answer(request)
        finally:
            timer.cancel()
            self._count_working(-1)
        if request.timed_out:
            task.uncancel()
        return response

    def _count_working(self, change: int) -> None:
        self._working += change
        self.pipeline.report_working(self._working)


class MessageRequest(Request):
    """A request out of a scope, with a body out of `http.request` messages."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        pairs = scope["headers"]
        super().__init__(
            scope["method"],
            scope["path"],
            scope["query_string"],
            combined(pairs),
            sum(len(name) + len(value) for name, value in pairs),
        )
        self._receive = receive
        self.client = client_of(scope.get("client"))

    async def read_body(self) -> bytes:
        message = await self._receive()
        body: bytes = message.get("body", b"")
        # Some servers say more_body also with the last piece.
        if self.headers.get(b"content-length") == b"%d" % len(body):
            return body
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
            message = await self._receive()


async def _send(request: Request, response: Response, send: Send) -> None:
    body = response.body
    headers = [*response.common.pairs, *response.own.pairs]
    headers.append((b"x-request-id", request.request_id.encode()))
    if response.status not in BODILESS:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if request.method == "HEAD":
        body = b""
    await send({"type": "http.response.body", "body": body})


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
