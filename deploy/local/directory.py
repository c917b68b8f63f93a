"""The stack's directory (.local): data, logs, generated secrets, ports, and one stack at a time."""

import base64
import fcntl
import os
import secrets
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Self

import orjson

from deploy.local.child import StartError
from deploy.local.ports import free_port, is_free

LARGEST_LOG_BYTES = 16 << 20


class LocalDirectory:
    """Held by one stack from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._ports: dict[str, int] = {}

    @property
    def settings(self) -> Path:
        """The effective settings of the running stack, to be sourced by a shell."""
        return self.path / "stack.env"

    @property
    def temporary(self) -> Path:
        """For temporary files of the daemons; what a killed one left is removed at the start."""
        return self.path / "tmp"

    def open(self) -> Self:
        """Take the directory for a stack, made if need be.

        Raises StartError when another stack has it. The lock ends with the process, however it
        ends.
        """
        # Others may pass through, as PostgreSQL's account has to, but not look around.
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)
        descriptor = self._take()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700)
        memory = self.path / "ports.json"
        self._ports = orjson.loads(memory.read_bytes()) if memory.exists() else {}
        for log in (self.path / "logs").glob("*.log"):
            if log.stat().st_size > LARGEST_LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
        return self

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_taken(self) -> bool:
        """Does a stack run here? Makes nothing."""
        if not (self.path / "lock").exists():
            return False
        try:
            self._take()
        except StartError:
            return True
        self.close()
        return False

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def port(self, name: str) -> int:
        """The port of the last start if it is free, otherwise another one, remembered."""
        port = self._ports.get(name, 0)
        taken = {other for key, other in self._ports.items() if key != name}
        if not port or port in taken or not is_free(port):
            self._ports[name] = port = free_port(taken)
            self._write_private("ports.json", orjson.dumps(self._ports))
        return port

    def password(self, name: str) -> str:
        """Generated at the first start; letters and digits that stand in a URL as they are."""
        return self._secret(f"{name}.password", lambda: secrets.token_urlsafe(24))

    def webhook_secret(self) -> str:
        """As Standard Webhooks writes it: whsec_ and the base64 of 32 random bytes."""
        return self._secret(
            "webhook.secret",
            lambda: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        )

    def write_settings(self, settings: Mapping[str, str]) -> None:
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in settings.items()]
        self._write_private("stack.env", "".join(lines).encode())

    def read_settings(self) -> dict[str, str]:
        words = shlex.split(self.settings.read_text(), comments=True)
        return dict(word.split("=", 1) for word in words)

    def _take(self) -> int:
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            self.close()
            raise StartError(
                f"a stack runs already in {self.path} (pid {holder}); "
                "stop it, or set LOCAL_DIR for another one beside it"
            ) from error
        return self._lock

    def _secret(self, file: str, generate: Callable[[], str]) -> str:
        path = self.path / file
        if not path.exists():
            self._write_private(file, generate().encode())
        return path.read_text()

    def _write_private(self, file: str, content: bytes) -> None:
        """Readable for nobody else at any moment, and never half-written."""
        half = self.path / f"{file}.new"
        half.unlink(missing_ok=True)
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        half.replace(self.path / file)
