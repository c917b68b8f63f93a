"""An open model that costs the machine little: requests leave at a fixed rate, on whichever of many
connections is free, and a moment without a free one is counted as dropped, as k6 does.

A program of its own (`python -m bench.open_model create`), so that its CPU time is its own. Latency
runs from the moment a request was due, so a generator that falls behind does not look like speed.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import uvloop

from bench.percentiles import latency_of

TICK_SECONDS = 0.001
DRAIN_SECONDS = 10.0
CREATE_BEFORE = '{"title":"Не печатает принтер № '.encode()
CREATE_AFTER = (
    '","description":"Горит красная лампа, в лотке есть бумага. Перезапуск не помог, драйвер '
    'обновлён вчера. Отдел закупок, третий этаж, кабинет 314; звонить до шести вечера.",'
    '"requester":"анна.петрова@example.org","priority":"high"}'
).encode()


class Figures:
    """What has come back. `waiting` is how many requests are on the way."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []
        self.errors: dict[str, int] = {}
        self.sent = 0
        self.dropped = 0
        self.waiting = 0
        self.idle = asyncio.Event()
        self._is_over = False

    def sends(self) -> None:
        self.sent += 1
        self.waiting += 1

    def ends(self) -> None:
        """Nothing more is sent."""
        self._is_over = True
        self._settle()

    def _settle(self) -> None:
        if self._is_over and not self.waiting:
            self.idle.set()

    def answered(self, status: bytes, milliseconds: float) -> None:
        self.waiting -= 1
        self._settle()
        if status in {b"200", b"201", b"304"}:
            self.milliseconds.append(milliseconds)
        else:
            self.fail(status.decode("latin-1"))

    def lost(self) -> None:
        self.waiting -= 1
        self.fail("connection")
        self._settle()

    def fail(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1


class Connection(asyncio.Protocol):
    """One keep-alive connection, in `free` while nothing is on the way."""

    def __init__(self, figures: Figures, free: list["Connection"]) -> None:
        self._figures = figures
        self._free = free
        self._due: float | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP
        self._free.append(self)

    def send(self, due: float, request: bytes) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(request)

    def close(self) -> None:
        """Does nothing on a connection that is lost already."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0 or len(received) < end + 4 + _content_length(received, end):
            self._received = received
            return
        self._received = b""
        if self._due is not None:
            self._figures.answered(received[9:12], (time.perf_counter() - self._due) * 1000)
            self._due = None
            self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._figures.lost()
            self._due = None
        elif self in self._free:
            self._free.remove(self)


def _content_length(received: bytes, end: int) -> int:
    start = received.find(b"ontent-length: ", 0, end)
    if start < 0:
        start = received.find(b"ontent-Length: ", 0, end)
    if start < 0:
        return 0
    return int(received[start + 15 : received.index(b"\r\n", start)])


async def run(
    host: str,
    port: int,
    request: Callable[[], bytes],
    *,
    rate: float,
    seconds: float,
    limit: int,
) -> dict[str, object]:
    """Send `rate` requests a second for `seconds`; the figures as open_load.py reads them."""
    loop = asyncio.get_running_loop()
    figures = Figures()
    free: list[Connection] = []
    connections = []
    for _ in range(limit):
        _, connection = await loop.create_connection(partial(Connection, figures, free), host, port)
        connections.append(connection)
    started = time.perf_counter()
    finished = loop.create_future()

    def tick() -> None:
        now = time.perf_counter()
        due = min(int((now - started) * rate), int(seconds * rate))
        while figures.sent + figures.dropped < due:
            if not free:
                figures.dropped += 1
                continue
            at = started + (figures.sent + figures.dropped) / rate
            figures.sends()
            free.pop().send(at, request())
        if now - started < seconds:
            loop.call_later(TICK_SECONDS, tick)
        else:
            finished.set_result(None)

    tick()
    await finished
    figures.ends()
    with suppress(TimeoutError):
        await asyncio.wait_for(figures.idle.wait(), DRAIN_SECONDS)
    found = _report(figures, seconds)
    for connection in connections:
        connection.close()
    return found


def _report(figures: Figures, seconds: float) -> dict[str, object]:
    if figures.waiting:
        figures.errors["timeout"] = figures.waiting
    return {
        "seconds": seconds,
        "requests": len(figures.milliseconds) + sum(figures.errors.values()),
        "errors": figures.errors,
        "dropped": figures.dropped,
        "latency_ms": latency_of(figures.milliseconds),
    }


def make_request(
    script: str, host: str, token: str, ids: list[str], number: int
) -> Callable[[], bytes]:
    """A function for the next request of a script, create or read."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"Host: {host}\r\n{authorization}"
    if script == "read":
        rest = f" HTTP/1.1\r\n{head}\r\n"

        def read() -> bytes:
            return f"GET /tickets/{random.choice(ids)}{rest}".encode()

        return read
    length = len(CREATE_BEFORE) + 16 + len(CREATE_AFTER)
    before = (
        f"POST /tickets HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode() + CREATE_BEFORE
    numbers = iter(range(number * 10**9, 10**16))

    def create() -> bytes:
        return b"%b%016d%b" % (before, next(numbers), CREATE_AFTER)

    return create


def main() -> None:
    values = os.environ
    parts = urlsplit(values["BASE_URL"])
    ids = Path(values["IDS"]).read_text().split()
    request = make_request(sys.argv[1], parts.netloc, values["TOKEN"], ids, int(values["RUN"]))
    figures = uvloop.run(
        run(
            str(parts.hostname),
            int(parts.port or 80),
            request,
            rate=float(values["RATE"]),
            seconds=float(values["SECONDS"]),
            limit=int(values["CONNECTIONS"]),
        )
    )
    Path(values["OUTPUT"]).write_bytes(orjson.dumps(figures))


if __name__ == "__main__":
    main()
