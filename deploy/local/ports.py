"""Free TCP ports on loopback.

They are taken from below the range that the kernel gives to outgoing connections (Linux: 32768 and
up), so that none of those sits on a port between its choice and its use.
"""

import random
import socket
from collections.abc import Container

LOWEST, HIGHEST = 20_000, 32_700
TRIES = 1000


def bind_error(port: int, host: str = "127.0.0.1") -> OSError | None:
    """Why a server cannot bind the port now; None when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def is_free(port: int) -> bool:
    return bind_error(port) is None


def free_port(taken: Container[int] = ()) -> int:
    """A port that is free now and not in `taken`. Random, so that two processes that choose at the
    same moment seldom choose the same."""
    for _ in range(TRIES):
        port = random.randint(LOWEST, HIGHEST)  # noqa: S311 - nothing secret about it
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free TCP port between {LOWEST} and {HIGHEST}")
