"""Our own open model against a server that answers as the test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.open_model import make_request, run

OK = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def server(answers: list[bytes], delay_seconds: float = 0.0) -> AsyncIterator[int]:
    """Answers in turn, each after the delay, and in two pieces, as networks do."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        while (await reader.readline()).startswith(b"GET"):
            await reader.readuntil(b"\r\n\r\n")
            answer = answers[number % len(answers)]
            number += 1
            await asyncio.sleep(delay_seconds)
            writer.write(answer[:20])
            await writer.drain()
            writer.write(answer[20:])
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield int(listening.sockets[0].getsockname()[1])


async def load(port: int, rate: float, limit: int) -> dict[str, Any]:
    request = make_request("read", "x", "", ["1"], 1)
    found: dict[str, Any] = await run(
        "127.0.0.1", port, request, rate=rate, seconds=0.5, limit=limit
    )
    return found


async def test_every_request_that_is_due_is_sent() -> None:
    async with server([OK]) as port:
        found = await load(port, 200, 100)
    assert (found["requests"], found["dropped"], found["errors"]) == (100, 0, {})


async def test_refusals_have_no_part_in_the_latency() -> None:
    async with server([OK, REFUSED]) as port:
        found = await load(port, 100, 50)
    assert found["errors"] == {"503": 25}
    assert found["requests"] == 50


async def test_request_without_a_free_connection_is_dropped() -> None:
    async with server([OK], delay_seconds=0.2) as port:
        found = await load(port, 200, 2)
    assert found["requests"] + found["dropped"] == 100
    assert found["requests"] < 20
    assert found["latency_ms"].p50 >= 200


async def test_lost_connection_is_an_error() -> None:
    async with server([b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"]) as port:
        found = await load(port, 50, 5)
    assert found["errors"] == {}

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listening:
        found = await load(int(listening.sockets[0].getsockname()[1]), 50, 5)
    assert found["errors"]["connection"] == 5
    assert found["dropped"] == 20


@pytest.mark.parametrize("script", ["create", "read"])
def test_requests_carry_the_token_and_a_right_length(script: str) -> None:
    make = make_request(script, "h:1", "secret", ["the-id"], 3)
    head, _, body = make().partition(b"\r\n\r\n")
    assert b"Authorization: Bearer secret" in head
    if script == "create":
        assert f"Content-Length: {len(body)}".encode() in head
        assert make() != make()
