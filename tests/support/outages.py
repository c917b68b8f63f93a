"""Ports at which nobody answers, for as long as a test is inside of them."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from deploy.local.ports import free_port

Outage = Callable[[], AbstractContextManager[int]]


@contextmanager
def refusing() -> Iterator[int]:
    """A port that nobody listens at."""
    yield free_port()


@contextmanager
def hanging() -> Iterator[int]:
    """A port where connections are made and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield int(server.getsockname()[1])
