"""A network that takes its time: a TCP proxy that hands everything on later, each way by half of a
round trip. Run as `python -m bench.distance LISTEN_PORT TARGET_PORT MILLISECONDS`."""

import asyncio
import sys

import uvloop


class Side(asyncio.Protocol):
    """One end of a connection; what arrives here leaves at the other after the delay."""

    def __init__(self, delay_seconds: float) -> None:
        self._delay_seconds = delay_seconds
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self.other: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport for TCP
        early, self._early = self._early, []
        for data in early:
            self.write(data)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            asyncio.get_running_loop().call_later(self._delay_seconds, self.other.write, data)

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None and self.other._transport is not None:  # noqa: SLF001 - its twin
            self.other._transport.close()  # noqa: SLF001


async def serve(listen_port: int, target_port: int, delay_seconds: float) -> None:
    """Until it is cancelled."""
    loop = asyncio.get_running_loop()
    connecting = set()

    def accept() -> Side:
        near, far = Side(delay_seconds), Side(delay_seconds)
        near.other, far.other = far, near
        task = loop.create_task(loop.create_connection(lambda: far, "127.0.0.1", target_port))
        connecting.add(task)
        task.add_done_callback(connecting.discard)
        return near

    server = await loop.create_server(accept, "127.0.0.1", listen_port)
    await server.serve_forever()


if __name__ == "__main__":
    listen, target, milliseconds = sys.argv[1:]
    uvloop.run(serve(int(listen), int(target), float(milliseconds) / 2000))
