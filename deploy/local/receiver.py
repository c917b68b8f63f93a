"""A webhook receiver for development: verifies the signature and logs every delivery.

It does what a receiver of somebody else would do, with the public Standard Webhooks library, and
so proves that notifyd's deliveries are what that library expects.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import JSONDecodeError
from typing import Any

import orjson
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from servicedesk.environment import Address, Environment, SettingError
from servicedesk.logs import Log

LARGEST_BODY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    address: Address
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> "Config":
        """Raises SettingError."""
        read = Environment(values)
        text = read.required("NOTIFYD_WEBHOOK_SECRET", "what notifyd signs with: whsec_ and base64")
        # As notifyd takes it: several secrets, each perhaps with the name of its webhook.
        entries = [part.rpartition("whsec_")[2] for part in text.replace(",", " ").split()]
        return cls(
            address=read.address("RECEIVER_ADDR", "127.0.0.1:8090"),
            secrets=tuple(f"whsec_{entry}" for entry in entries),
        )


def is_signed(body: bytes, headers: Mapping[str, str], secrets: tuple[str, ...]) -> bool:
    """Does one of the secrets verify the body, and is its time stamp recent?"""
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers))
        except JSONDecodeError:
            return True  # it parses what it has verified
        except (WebhookVerificationError, ValueError):
            continue
        return True
    return False


def described(body: bytes) -> dict[str, object]:
    """What a person wants to see of an event."""
    event: Any = orjson.loads(body)
    return {
        "event_type": event["event_type"],
        "ticket": event["aggregate_id"],
        "sequence": event["sequence"],
        "title": event["payload"]["title"],
    }


class Receiver(ThreadingHTTPServer):
    """Listens from construction on; OSError when the address is taken."""

    daemon_threads = True
    # Connections that wait to be accepted. notifyd opens 32 at once, and one that is dropped counts
    # as a receiver that is away.
    request_queue_size = 128

    def __init__(self, config: Config, log: Log) -> None:
        self.secrets = config.secrets
        self.log = log
        super().__init__((config.address.host, config.address.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # OSError: the sender was killed or gave up, which says nothing about the receiver.
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self.log.error("delivery_failed", error=error)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"
    timeout = 30.0

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            self._answer(411 if not length else 413)
            return
        self._answer(self._receive(self.rfile.read(int(length))))

    def _receive(self, body: bytes) -> int:
        log = self.server.log
        webhook_id = self.headers.get("webhook-id", "")
        if not is_signed(body, dict(self.headers.items()), self.server.secrets):
            log.warning("delivery_refused", webhook_id=webhook_id, signature="wrong")
            return 401
        try:
            fields = described(body)
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("delivery_unreadable", webhook_id=webhook_id, error=repr(error))
            return 400
        log.info("delivery", **fields, webhook_id=webhook_id, signature="ok")
        return 204

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Deliveries are logged, not requests."""


def main() -> int:
    try:
        config = Config.from_environment(os.environ)
        server = Receiver(config, Log("receiver"))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = f"RECEIVER_ADDR {config.address}: {error.strerror}"
        print(f"error: cannot listen on {reason}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        # From a thread: shutdown waits for serve_forever, which this handler interrupts.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
