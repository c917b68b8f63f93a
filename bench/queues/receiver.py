"""A webhook receiver that answers at once and counts: `python -m bench.queues.receiver PORT`.

It reads a request as far as its end and verifies nothing, so that it costs little beside what is
measured. `GET /count` tells how many deliveries there were.
"""

import asyncio
import sys

import uvloop

LENGTH = b"content-length:"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver(asyncio.Protocol):
    """One connection; requests come one after another."""

    count = 0

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            whole = end + 4 + _content_length(head)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            if head.startswith(b"get "):
                body = str(Receiver.count).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                self._transport.write(head + body)
            else:
                Receiver.count += 1
                self._transport.write(NO_CONTENT)


def _content_length(head: bytes) -> int:
    start = head.find(LENGTH)
    if start < 0:
        return 0
    end = head.find(b"\r\n", start)
    return int(head[start + len(LENGTH) : end if end >= 0 else None])


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(
        Receiver, "127.0.0.1", int(sys.argv[1]), backlog=512
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
