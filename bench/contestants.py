"""What is measured: ticketd and the peers, and what they need to run.

All of a run are alive side by side, each on a database of its own with the same rows; one at a
time is under load.
"""

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import PROJECT
from bench.variants import LeftOutError, Variant, source
from deploy.local.child import Child, Program
from deploy.local.loopback import get
from deploy.local.ports import bind_error, free_port

PEERS = Path(__file__).with_name("peers")
PEERS_PYTHON = PROJECT / ".venv" / "peers" / "bin" / "python"
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
TICKETD_LOADS = frozenset(
    {"create", "read", "list", "patch", "mix", "alone", "latency", "overload"}
)
PEER_LOADS = frozenset({"create", "read", "alone", "latency"})


class Service:
    """An HTTP service as a process. `loads` are the scenarios it has routes for; `keyed` says that
    its creates are to carry an Idempotency-Key."""

    def __init__(
        self,
        *,
        name: str,
        program: Program,
        url: str,
        ready_url: str,
        metrics_url: str,
        token: str,
        loads: frozenset[str],
        description: Mapping[str, Any],
        keyed: bool = False,
    ) -> None:
        self.name = name
        self.keyed = keyed
        self.url = url
        self.token = token
        self.loads = loads
        self.description = description
        self._program = program
        self._ready_url = ready_url
        self._metrics_url = metrics_url
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Raises StartError."""
        self._child = Child(self._program)
        self._child.wait_ready(self._is_ready, READY_SECONDS)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(self._program.death_signal, STOP_SECONDS)
            self._child = None

    def metrics(self) -> str:
        """The Prometheus text; empty where there is none."""
        answer = get(self._metrics_url) if self._metrics_url else None
        return answer.body.decode() if answer is not None else ""

    def empty_log(self) -> None:
        """A log that grows for the whole run would fill the disk."""
        os.truncate(self._program.log, 0)

    def _is_ready(self) -> bool:
        answer = get(self._ready_url)
        return answer is not None and answer.status in {200, 404}


class Distance:
    """A proxy before PostgreSQL that makes it `milliseconds` far away; `folder` is for its log."""

    def __init__(self, target_port: int, milliseconds: float, folder: Path) -> None:
        self.port = free_port()
        self._program = Program(
            name="distance",
            command=[
                sys.executable, "-m", "bench.distance",
                str(self.port), str(target_port), str(milliseconds),
            ],
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            log=folder / "distance.log",
            directory=PROJECT,
        )  # fmt: skip
        self._child: Child | None = None

    def start(self) -> None:
        """Raises StartError."""
        self._child = Child(self._program)
        self._child.wait_ready(lambda: bind_error(self.port) is not None, READY_SECONDS)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(self._program.death_signal, STOP_SECONDS)
            self._child = None


def ticketd(
    variant: Variant, database_url: str, folder: Path, redis_url: str | None = None
) -> Service:
    """As it ships: tokens, validation, access log, metrics and limits are on."""
    http, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    token = secrets.token_urlsafe(24)
    tokens = folder / f"{variant.name}.tokens"
    digest = hashlib.sha256(token.encode()).hexdigest()
    tokens.write_text(f"bench {digest} tickets:read,tickets:write\n")
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(folder),
        "HTTP_ADDR": http,
        "METRICS_ADDR": admin,
        "DATABASE_URL": database_url,
        "TICKETD_AUTH": "tokens",
        "TICKETD_TOKENS_FILE": str(tokens),
        "TICKETD_CURSOR_SECRET": secrets.token_hex(32),
        **({"REDIS_URL": redis_url} if variant.redis and redis_url else {}),
        **variant.environment,
    }
    return Service(
        name=variant.name,
        program=Program(
            name=variant.name,
            command=[variant.python, "-m", "ticketd"],
            environment=environment,
            log=folder / f"{variant.name}.log",
            directory=source(variant, folder),
        ),
        url=f"http://{http}",
        ready_url=f"http://{admin}/readyz",
        metrics_url=f"http://{admin}/metrics",
        token=token,
        loads=TICKETD_LOADS,
        description={
            **variant.description(),
            "what": "ticketd",
            "keyed": variant.keyed,
            "redis": variant.redis,
        },
        keyed=variant.keyed,
    )


def fastapi(database_url: str, folder: Path, workers: int) -> Service:
    """Raises LeftOutError when its packages are not installed."""
    if not PEERS_PYTHON.exists():
        raise LeftOutError(
            "FastAPI and its packages are not installed; make bench with fastapi in ARGS does it"
        )
    port = free_port()
    return _peer(
        name="fastapi",
        command=[
            str(PEERS_PYTHON), "-m", "uvicorn", "service:app", "--app-dir", str(PEERS / "fastapi"),
            "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--workers", str(workers),
        ],
        environment={"DATABASE_URL": database_url.replace("postgresql", "postgresql+asyncpg", 1)},
        port=port,
        folder=folder,
        description={"what": "FastAPI + SQLAlchemy + asyncpg on uvicorn", "workers": workers},
    )  # fmt: skip


def go(database_url: str, folder: Path) -> Service:
    """Built first where a Go toolchain is present. Raises LeftOutError."""
    compiler = shutil.which("go")
    if compiler is None:
        raise LeftOutError(
            "no Go toolchain on the PATH; the Go peer is not built (https://go.dev/dl)"
        )
    binary = folder / "go-peer"
    built = subprocess.run(
        [compiler, "build", "-o", str(binary), "."],
        cwd=PEERS / "go", capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if built.returncode != 0:
        raise LeftOutError(f"the Go peer does not build: {built.stderr.strip()[-300:]}")
    port = free_port()
    return _peer(
        name="go",
        command=[str(binary)],
        environment={"DATABASE_URL": database_url, "ADDR": f"127.0.0.1:{port}"},
        port=port,
        folder=folder,
        description={"what": "Go: net/http and pgx, two inserts in a transaction"},
    )


def _peer(
    *,
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    port: int,
    folder: Path,
    description: Mapping[str, Any],
) -> Service:
    url = f"http://127.0.0.1:{port}"
    return Service(
        name=name,
        program=Program(
            name=name,
            command=command,
            environment={"PATH": os.defpath, "LC_ALL": "C.UTF-8", **environment},
            log=folder / f"{name}.log",
            directory=PEERS,
        ),
        url=url,
        # A ticket that does not exist: 404 says that it listens and reaches its database.
        ready_url=f"{url}/tickets/019a8f6e-53c4-7d11-9c1e-5f0a4b7f2d10",
        metrics_url="",
        token="",
        loads=PEER_LOADS,
        description={"name": name, **description},
    )
