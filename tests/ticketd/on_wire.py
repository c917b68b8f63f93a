"""Requests as bytes, to the application behind its own HTTP server."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from tests.support.http_client import RawClient
from tests.ticketd.application import NEW, Running, running

Act = Callable[[Running, RawClient], Awaitable[None]]
BODY = orjson.dumps(NEW)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def post(*headers: bytes, body: bytes = BODY, path: bytes = b"/tickets") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: x", b"Content-Type: application/json"]
    if not any(b"ncoding" in header or b"ength" in header for header in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *headers, b"", body])


def on_wire(act: Act, environment: dict[str, str] | None = None) -> None:
    async def run() -> None:
        async with running(environment) as app, RawClient(str(app.client.base_url)) as client:
            await act(app, client)

    asyncio.run(run())
