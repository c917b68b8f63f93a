"""A webhook receiver that remembers, in order, what it has taken; it answers as it is told."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One accepted request. `envelope` is its body, `taken_at` the clock of the day."""

    webhook_id: str
    envelope: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    taken_at: float

    @property
    def committed_at(self) -> float:
        return datetime.fromisoformat(self.envelope["occurred_at"]).timestamp()

    @property
    def seconds(self) -> float:
        """From the commit of the ticket to the delivery."""
        return self.taken_at - self.committed_at

    @property
    def event_id(self) -> str:
        return self.webhook_id

    @property
    def ticket(self) -> str:
        return str(self.envelope["aggregate_id"])

    @property
    def sequence(self) -> int:
        return int(self.envelope["sequence"])


class WebhookReceiver:
    """Listens on a loopback port inside a `with`, a free one unless given. `status` decides from
    the envelope; what is answered with 2xx counts as delivered."""

    def __init__(
        self, status: Callable[[dict[str, Any]], int] = lambda envelope: 200, *, port: int = 0
    ) -> None:
        self.status = status
        self.deliveries: list[Delivery] = []
        self.refusals = 0
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def has_taken(self, least: int) -> Callable[[], bool]:
        """A condition to wait for."""
        return lambda: len(self.deliveries) >= least

    def take(self, headers: dict[str, str], body: bytes) -> int:
        envelope = orjson.loads(body)
        status = self.status(envelope)
        with self._lock:
            if 200 <= status < 300:
                delivery = Delivery(
                    webhook_id=headers["webhook-id"],
                    envelope=envelope,
                    headers=headers,
                    body=body,
                    taken_at=time.time(),
                )
                self.deliveries.append(delivery)
            else:
                self.refusals += 1
        return status

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, receiver: WebhookReceiver, port: int) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # OSError: the sender was killed, or has waited long enough.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30.0
    # Header and body leave in one packet each; with Nagle's algorithm the second would wait.
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.receiver.take(headers, body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """The test looks at what was taken."""
