"""A worker's own stalls are not taken for a slow Redis."""

import asyncio
import io
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis

from servicedesk.logs import Log
from tests.ticketd.test_replays import until_true
from ticketd.metrics import Metrics
from ticketd.redis_link import Gathering, LinkSettings, RedisLink
from ticketd.redis_wire import RedisAddress, pack

# Of an exchange. Redis answers within it, and the loop stands still for longer.
SECONDS = 1.0
STALL_SECONDS = 4 * SECONDS


async def owner() -> str:
    return "test"


@asynccontextmanager
async def connected(
    url: str, command: bytes
) -> AsyncIterator[tuple[Gathering[None, str], io.StringIO]]:
    """What asks Redis this one command, and tells whether there was an answer; and the log."""

    def unpack(items: Sequence[None], reply: object) -> Sequence[str]:
        del reply
        return ["answered"] * len(items)

    stream = io.StringIO()
    settings = LinkSettings(
        address=RedisAddress.from_url(url),
        read_owner=owner,
        exchange_seconds=SECONDS,
        in_tasks=True,
        now=time.monotonic,
    )
    link = RedisLink(settings, Metrics().redis(), Log("ticketd", stream=stream))
    gathering = link.gathering(lambda _: command, unpack, "away")
    running = asyncio.create_task(link.run())
    await until_true(lambda: link.is_up)
    try:
        yield gathering, stream
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def while_reading(act: Callable[[], Any]) -> None:
    """Do it as the loop does what comes of bytes that have arrived, and not between two looks at
    its sockets."""
    ours, theirs = socket.socketpair()
    done = asyncio.Event()

    def come() -> None:
        ours.recv(1)
        act()
        done.set()

    with ours, theirs:
        asyncio.get_running_loop().add_reader(ours, come)
        theirs.send(b"!")
        await done.wait()
        asyncio.get_running_loop().remove_reader(ours)


async def test_answer_that_came_while_the_loop_stood_still_is_heard(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as there:
        command = pack(b"BLPOP", b"nothing comes here", b"%f" % (SECONDS / 2))

        def is_asked() -> bool:
            return bool(there.info("clients")["blocked_clients"])

        def stand_still() -> None:
            """Until Redis has answered, and for longer than it may take."""
            until = time.monotonic() + STALL_SECONDS
            while is_asked() or time.monotonic() < until:
                time.sleep(0.02)

        async with connected(valkey_url, command) as (gathering, stream):
            waiting = gathering.ask(None)
            await until_true(is_asked)
            await while_reading(stand_still)
            assert await waiting == "answered"
    assert "redis_away" not in stream.getvalue()


async def test_redis_that_does_not_answer_is_still_given_up(valkey_url: str) -> None:
    command = pack(b"BLPOP", b"nothing comes here", b"0")
    async with connected(valkey_url, command) as (gathering, stream):
        assert await gathering.ask(None) == "away"
        await until_true(lambda: "redis_away" in stream.getvalue())
