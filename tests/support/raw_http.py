"""HTTP as bytes on a socket, for requests that no client library would send."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import orjson

CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = orjson.loads(self.body)
        return content


def request_bytes(
    method: str, target: str, headers: Sequence[tuple[str, str | bytes]], body: bytes = b""
) -> bytes:
    """One HTTP/1.1 request. Content-Length is added unless the headers say how long the body is."""
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: ticketd", b"Connection: close"]
    if method in {"POST", "PATCH"} and not names & {"content-length", "transfer-encoding"}:
        headers = [*headers, ("Content-Length", str(len(body)))]
    for name, value in headers:
        text = value if isinstance(value, bytes) else value.encode("latin-1")
        lines.append(name.encode() + b": " + text)
    return b"\r\n".join([*lines, b"", body])


def exchange(url: str, request: bytes, *, hang_up: bool = False) -> Answer:
    """Send bytes to a server and read its answer. A server that answers before it has read
    everything is listened to. With `hang_up` the sending side is closed after the last byte."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        try:
            for start in range(0, len(request), CHUNK_BYTES):
                connection.sendall(request[start : start + CHUNK_BYTES])
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            # The answer may have come already; reading it says more than this error.
            pass
        response = HTTPResponse(connection)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=headers, body=response.read())
