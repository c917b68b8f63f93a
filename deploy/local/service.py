"""A Python process of the project in the stack: a daemon or the webhook receiver."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from deploy.local.child import Child, NotReadyError, Program, StartError
from deploy.local.loopback import get

PROJECT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
# Beyond its own SHUTDOWN_TIMEOUT, for the interpreter to leave.
LEAVE_SECONDS = 5.0


class Server(Protocol):
    """PostgreSQL, Valkey, S3 or Kafka, as their modules have them."""

    name: str
    log: Path
    child: Child | None

    @property
    def address(self) -> str: ...

    def start(self) -> Child: ...

    def wait_ready(self) -> None: ...

    def stop(self) -> None: ...


class Service:
    """`python -m module` with its own environment; `ready_url` answers 200 when it is ready."""

    def __init__(
        self,
        *,
        name: str,
        module: str,
        environment: Mapping[str, str],
        address: str,
        ready_url: str,
        log: Path,
        shutdown_seconds: float,
    ) -> None:
        self.name = name
        self.address = address
        self.log = log
        self.child: Child | None = None
        self._module = module
        self._environment = environment
        self._ready_url = ready_url
        self._shutdown_seconds = shutdown_seconds

    def start(self) -> Child:
        """Does not wait."""
        self.child = Child(
            Program(
                name=self.name,
                command=[sys.executable, "-m", self._module],
                environment=self._environment,
                log=self.log,
                directory=PROJECT,
                death_signal=signal.SIGTERM,  # it has processes of its own to take along
            )
        )
        return self.child

    def wait_ready(self, watch: Callable[[], None]) -> None:
        """Raises StartError with the failing checks, or the last words of a process that ended.

        `watch` is called at every look and may raise.
        """

        def ready() -> bool:
            watch()
            return self.is_ready()

        if self.child is None:
            raise StartError(f"{self.name} is not started")
        try:
            self.child.wait_ready(ready, READY_SECONDS)
        except NotReadyError as error:
            answer = get(self._ready_url)
            if answer is None:
                raise
            checks = answer.body.decode(errors="replace")
            raise NotReadyError(f"{error}; {self._ready_url} says {checks}") from error

    def is_ready(self) -> bool:
        answer = get(self._ready_url)
        return answer is not None and answer.status == 200

    def stop(self) -> None:
        """SIGTERM, and kill what has not left in time. Does nothing when it is down."""
        if self.child is not None:
            self.child.stop(signal.SIGTERM, self._shutdown_seconds + LEAVE_SECONDS)
            self.child = None
