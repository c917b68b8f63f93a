"""The few HTTP requests that the stack itself makes, to servers on loopback."""

import http.client
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from servicedesk.environment import Address

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def get(url: str) -> Answer | None:
    """The answer, whatever its status; None while nobody answers."""
    try:
        return send("GET", url)
    except (URLError, http.client.HTTPException, OSError):
        return None


def send(
    method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Raises URLError, HTTPException or OSError when there is no answer. Header names of the answer
    are in lower case. A proxy of the environment is not asked: these are our own processes."""
    request = Request(url, data=body, headers=headers or {}, method=method)  # noqa: S310 - http
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return _answer(answer.status, answer.headers.items(), answer.read())
    except HTTPError as error:
        with error:
            return _answer(error.code, error.headers.items(), error.read())


def reachable(address: Address) -> Address:
    """Where to reach what listens on an address: a wildcard is reached on loopback."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return Address(loopback.get(address.host, address.host), address.port)


def _answer(status: int, headers: list[tuple[str, str]], body: bytes) -> Answer:
    named = {name.lower(): value for name, value in headers}
    return Answer(status=status, headers=named, body=body)
