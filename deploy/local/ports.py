"""Free TCP ports on loopback.

They are taken from below the range that the kernel gives to outgoing connections (Linux: 32768 and
up), so that none of those sits on a port between its choice and its use; and what was chosen lately
is noted in a file, so that no other process of this user chooses it in between.
"""

import fcntl
import os
import random
import socket
import tempfile
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

LOWEST, HIGHEST = 20_000, 32_700
TRIES = 1000
# Longer than any server takes from the choice of its port to listening on it.
RESERVED_SECONDS = 120.0


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
    """A port that is free now, not in `taken`, and that nobody else will get here for a while."""
    with _reservations() as reserved:
        for _ in range(TRIES):
            port = random.randint(LOWEST, HIGHEST)  # noqa: S311 - nothing secret about it
            if port not in taken and str(port) not in reserved and is_free(port):
                reserved[str(port)] = time.time()
                return port
    raise OSError(f"no free TCP port between {LOWEST} and {HIGHEST}")


@contextmanager
def _reservations() -> Iterator[dict[str, float]]:
    """When each port was chosen, of the last ones; what is added is kept. Others wait meanwhile."""
    path = Path(tempfile.gettempdir()) / f"servicedesk-lite-{os.getuid()}.ports"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        now, noted = time.time(), dict[str, float]()
        # Empty at first, or cut short by a process that was killed here.
        with suppress(orjson.JSONDecodeError):
            noted = orjson.loads(file.read())
        reserved = {port: at for port, at in noted.items() if 0 <= now - at < RESERVED_SECONDS}
        try:
            yield reserved
        finally:
            file.seek(0)
            file.truncate()
            file.write(orjson.dumps(reserved))
