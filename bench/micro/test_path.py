"""A request's way through ticketd: from its bytes to those of the answer, and piece by piece."""

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from servicedesk.logs import Log
from ticketd.access_log import AccessLog, Entry
from ticketd.app import build_app, build_server
from ticketd.config import Config
from ticketd.exchange import Exchange
from ticketd.http1 import Connection
from ticketd.lanes import Waiting
from ticketd.listener import HttpServer
from ticketd.metrics import Metrics

TOKEN = b"a-token-of-some-length-for-the-bench"
HEADERS = b"Host: 127.0.0.1:8080\r\nAuthorization: Bearer " + TOKEN + b"\r\n"
BODY = (
    '{"title":"Принтер на третьем этаже не печатает","requester":"anna.petrova@example.com",'
    '"description":"Горит красная лампа. Бумага есть, перезагружали дважды","priority":"high"}'
).encode()
POST = (
    b"POST /tickets HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (HEADERS, len(BODY), BODY)
)
ENTRY: Entry = (
    1_768_464_000.123456, "GET", "/tickets/{id}", 200, 0.0042, "0" * 32, f"00-{'1' * 32}-2-00",
    "bench", 612,
)  # fmt: skip


class Nowhere(io.StringIO):
    """Keeps nothing of a log."""

    def write(self, text: str) -> int:
        return len(text)


class Transport(asyncio.Transport):
    """Takes the answers; there is no socket."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.last = bytes(data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """ticketd with everything on and its tickets in memory."""
    tokens: Path = tmp_path_factory.mktemp("micro") / "tokens"
    digest = hashlib.sha256(TOKEN).hexdigest()
    tokens.write_text(f"bench {digest} tickets:read,tickets:write\n")
    config = Config.from_environment({"TICKETD_TOKENS_FILE": str(tokens)})

    async def start() -> HttpServer:
        app = build_app(config, Log("ticketd", stream=Nowhere()), in_tasks=False)
        server = build_server(config, app.pipeline)
        await app.service.start()
        return server

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop.run_until_complete(start())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def connection(server: HttpServer) -> Connection:
    found = Connection(server)
    found.connection_made(Transport())
    return found


def answer_to(benchmark: BenchmarkFixture, connection: Connection, data: bytes) -> bytes:
    """What the connection answers, measured inside the loop, because a request starts a timer."""
    transport = connection._transport
    assert isinstance(transport, Transport)

    async def measure() -> None:
        benchmark(connection.data_received, data)

    asyncio.get_event_loop().run_until_complete(measure())
    return transport.last


def test_create_from_bytes_to_bytes(benchmark: BenchmarkFixture, connection: Connection) -> None:
    assert answer_to(benchmark, connection, POST).startswith(b"HTTP/1.1 201 ")


def test_read_from_bytes_to_bytes(benchmark: BenchmarkFixture, connection: Connection) -> None:
    async def create() -> bytes:
        connection.data_received(POST)
        transport = connection._transport
        assert isinstance(transport, Transport)
        return transport.last.partition(b"location: ")[2].partition(b"\r\n")[0]

    path = asyncio.get_event_loop().run_until_complete(create())
    get = b"GET %b HTTP/1.1\r\n%b\r\n" % (path, HEADERS)
    assert answer_to(benchmark, connection, get).startswith(b"HTTP/1.1 200 ")


def exchange() -> Exchange:
    path = "/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10"
    return Exchange("GET", path, b"", {b"authorization": b"Bearer " + TOKEN}, 60)


def test_route_found(benchmark: BenchmarkFixture, server: HttpServer) -> None:
    assert benchmark(server.pipeline._router.find, exchange()).pattern == "/tickets/{id}"


def test_request_id_and_trace_made(benchmark: BenchmarkFixture, server: HttpServer) -> None:
    request = exchange()
    benchmark(server.pipeline._correlate, request)
    assert len(request.request_id) == 32


def test_caller_found_and_admitted(benchmark: BenchmarkFixture, server: HttpServer) -> None:
    request = exchange()
    benchmark(server.pipeline._admit, request, server.pipeline._router.find(request))
    assert request.caller.name == "bench"


def test_metrics_counted(benchmark: BenchmarkFixture) -> None:
    benchmark(Metrics().route("GET", "/tickets/{id}").observe, 200, 0.0042)


def test_access_line_written(benchmark: BenchmarkFixture) -> None:
    assert benchmark(AccessLog(print)._line, ENTRY).endswith('"bytes":612}')


def test_result_waited_for_and_settled(benchmark: BenchmarkFixture) -> None:
    """A place in the queue of a lane, without the lane."""

    async def wait(waiting: Waiting[int, int]) -> int:
        return await waiting

    def one() -> int:
        waiting: Waiting[int, int] = Waiting(1, 0.0)
        coroutine = wait(waiting)
        coroutine.send(None)
        waiting.settle(7)
        try:
            coroutine.send(None)
        except StopIteration as end:
            return int(end.value)
        raise AssertionError("it waits still")

    assert benchmark(one) == 7
