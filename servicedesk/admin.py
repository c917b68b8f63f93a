"""The admin port of a daemon: /healthz, /readyz and /metrics, on a thread of its own.

It keeps answering while the event loop is busy or the database is away, and is never counted
against the limits of the API.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from socketserver import TCPServer
from typing import Any

import orjson

from servicedesk.environment import Address

# The port outlives what it is wired to, so it reports its own defects the way a library does.
LIBRARY_LOG = logging.getLogger(__name__)
# So begins the reason of a dependency that is away and without which the daemon still does its job.
DEGRADED = "degraded: "
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the admin port asks. All three are called from the port's threads and return at once.

    `readiness` maps each dependency to "ok" or to a short reason; the daemon is ready when all of
    them are "ok" or DEGRADED. `alive` is False only when a restart would help.
    """

    readiness: Callable[[], Mapping[str, str]]
    metrics: Callable[[], bytes]
    alive: Callable[[], bool] = lambda: True


def readiness_answer(checks: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and JSON body of /readyz: 200 when every check is "ok" or DEGRADED, otherwise 503."""
    ready = all(reason == "ok" or reason.startswith(DEGRADED) for reason in checks.values())
    body = {"status": "ready" if ready else "not_ready", "checks": dict(checks)}
    return (200 if ready else 503), orjson.dumps(body)


def liveness_answer(*, alive: bool) -> tuple[int, bytes]:
    return (200, b'{"status":"alive"}') if alive else (503, b'{"status":"stuck"}')


class AdminServer:
    """Serves the probes on an address from construction until `close`.

    Raises OSError when the address is taken.
    """

    def __init__(self, address: Address, probes: Probes) -> None:
        self._server = _Server(address, probes)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="admin"
        )
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    # Python 3.12.5 to 3.13 turn it on for HTTP servers, and a second daemon would then share the
    # port silently instead of finding it taken.
    allow_reuse_port = False

    def __init__(self, address: Address, probes: Probes) -> None:
        self.address_family = AF_INET6 if ":" in address.host else AF_INET
        self.probes = probes
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the DNS for the host's name, which can take many seconds.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # OSError: a prober hung up or was too slow, nothing that an operator can act upon.
        if not isinstance(sys.exception(), OSError):
            LIBRARY_LOG.exception("admin request failed")


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0
    server_version = "servicedesk"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            answer = self._ask(self.server.probes)
        except Exception as error:
            # A defect of one probe leaves the others working.
            LIBRARY_LOG.exception("probe failed")
            failed = {"status": "failed", "error": type(error).__name__}
            answer = (500, orjson.dumps(failed), "application/json")
        self._answer(*answer)

    def _ask(self, probes: Probes) -> tuple[int, bytes, str]:
        match self.path.partition("?")[0]:
            case "/healthz":
                return *liveness_answer(alive=probes.alive()), "application/json"
            case "/readyz":
                return *readiness_answer(probes.readiness()), "application/json"
            case "/metrics":
                return 200, probes.metrics(), METRICS_CONTENT_TYPE
            case _:
                return 404, b'{"status":"not_found"}', "application/json"

    do_HEAD = do_GET  # noqa: N815 - the base's name

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Probes are not logged."""
