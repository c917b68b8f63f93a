"""The webhook receiver takes what is signed, and says what it got without trusting it."""

import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, create_connection

import httpx
import orjson
import pytest
from standardwebhooks import Webhook

from deploy.local.child import Child, Program
from deploy.local.loopback import get
from deploy.local.receiver import Config, Receiver
from servicedesk.environment import Address
from servicedesk.logs import Log
from tests.support.processes import PROJECT, free_port, wait_until

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
EVENT = {
    "event_type": "ticket.created",
    "aggregate_id": "019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10",
    "sequence": 1,
    "payload": {"title": "Принтер 🖨️"},
}


class RunningReceiver:
    def __init__(self, log: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}/"
        self.log = log
        self.child = Child(
            Program(
                name="receiver",
                command=[sys.executable, "-m", "deploy.local.receiver"],
                environment={
                    "PATH": os.defpath,
                    "RECEIVER_ADDR": self.url.removeprefix("http://").removesuffix("/"),
                    "NOTIFYD_WEBHOOK_SECRET": SECRET,
                },
                log=log,
                directory=PROJECT,
            )
        )

    def post(self, body: bytes, secret: str, age: timedelta = timedelta()) -> int:
        moment = datetime.now(UTC) - age
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": Webhook(secret).sign("msg_1", moment, body.decode()),
        }
        return httpx.post(self.url, content=body, headers=headers).status_code


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReceiver]:
    running = RunningReceiver(tmp_path_factory.mktemp("receiver") / "receiver.log")
    running.child.wait_ready(lambda: get(running.url) is not None, 20)
    yield running
    assert running.child.stop(signal.SIGTERM, 10) == 0


def test_burst_of_connections_is_not_refused() -> None:
    config = Config(address=Address("127.0.0.1", free_port()), secrets=(SECRET,))
    with ExitStack() as opened:
        opened.enter_context(Receiver(config, Log("receiver")))
        # Nobody accepts: all of them wait in the queue of the listening socket.
        for _ in range(64):
            opened.enter_context(
                create_connection((config.address.host, config.address.port), timeout=1)
            )


def test_sender_that_was_killed_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    config = Config(address=Address("127.0.0.1", free_port()), secrets=(SECRET,))
    with Receiver(config, Log("receiver")) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        with create_connection((config.address.host, config.address.port), timeout=5) as sender:
            sender.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sender.recv(100).startswith(b"HTTP/1.1 200")
            # The end of a process with an answer unread: its connections are reset.
            sender.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(
            lambda: not [t for t in threading.enumerate() if "process_request" in t.name],
            10,
            "end of the connection",
        )
        server.shutdown()
        serving.join()
    assert capfd.readouterr().err == ""


def test_signed_delivery_is_taken_and_told(receiver: RunningReceiver) -> None:
    assert receiver.post(orjson.dumps(EVENT), SECRET) == 204
    told = orjson.loads(receiver.log.read_text().splitlines()[-1])
    assert told["event"] == "delivery"
    assert told["signature"] == "ok"
    assert told["title"] == "Принтер 🖨️"


def test_wrong_or_old_signature_is_refused(receiver: RunningReceiver) -> None:
    other = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
    assert receiver.post(orjson.dumps(EVENT), other) == 401
    assert receiver.post(orjson.dumps(EVENT), SECRET, timedelta(hours=1)) == 401
    assert httpx.post(receiver.url, content=orjson.dumps(EVENT)).status_code == 401
    nonsense = {"webhook-id": "1", "webhook-timestamp": "soon", "webhook-signature": "v1"}
    assert httpx.post(receiver.url, content=b"{}", headers=nonsense).status_code == 401


def test_signed_body_that_is_no_event_is_a_bad_request(receiver: RunningReceiver) -> None:
    for body in (b"not json", b"[]", b'{"event_type":"ticket.created"}', b"null"):
        assert receiver.post(body, SECRET) == 400


def test_body_above_the_limit_is_not_read(receiver: RunningReceiver) -> None:
    connection = HTTPConnection(receiver.url.split("/")[2], timeout=5)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(1 << 30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
