"""Daemons as processes, and waiting for what they do: a condition polled with a deadline."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import orjson

from deploy.local.child import Child, Program
from deploy.local.ports import free_port

__all__ = ["PROJECT", "Daemon", "free_port", "http_status", "wait_until"]

PROJECT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.02

Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found],
    seconds: float,
    what: str | Callable[[], str],
    every: float = POLL_SECONDS,
) -> Found:
    """Poll until `condition` returns something true, and return it; fails after `seconds`. `what`
    may be worked out when it fails, from the state at that moment."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"after {seconds:g} s there is still no {told}")
        time.sleep(every)
    return found


def http_status(url: str) -> int | None:
    """The status that a GET answers with; None while nobody listens."""
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback URL of the test
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code
    except (URLError, OSError):
        return None


class Daemon:
    """`python -m MODULE ARGUMENTS` with an environment of its own, logging into `directory`.

    METRICS_ADDR, and HTTP_ADDR for ticketd, are on free ports unless given. As a context manager
    it is started, and killed with its whole process group at the end.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        module: str,
        environment: Mapping[str, str],
        *,
        directory: Path,
        arguments: Sequence[str] = (),
    ) -> None:
        admin = free_port()
        addresses = {"METRICS_ADDR": f"127.0.0.1:{admin}"}
        if module == "ticketd":
            addresses["HTTP_ADDR"] = f"127.0.0.1:{free_port({admin})}"
        self.module = module
        self.environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "APP_ENV": "dev",
            "TMPDIR": str(directory),
            **addresses,
            **environment,
        }
        self.arguments = arguments
        self.log = directory / f"{module}-{next(self._numbers)}.log"
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """Of the API, without a slash at the end."""
        return f"http://{self.environment['HTTP_ADDR']}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.environment['METRICS_ADDR']}"

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> Self:
        """Start, or start again after an end, on the same addresses. Does not wait."""
        self.child = Child(
            Program(
                name=self.module,
                command=[sys.executable, "-m", self.module, *self.arguments],
                environment=self.environment,
                log=self.log,
                directory=PROJECT,
            )
        )
        return self

    def wait_ready(self, seconds: float = 20.0) -> Self:
        """Until /readyz answers 200. Fails with the end of the log when the process ends first."""
        self._running().wait_ready(self.is_ready, seconds)
        return self

    def is_ready(self) -> bool:
        return http_status(f"{self.admin_url}/readyz") == 200

    def checks(self) -> dict[str, str]:
        """What /readyz says of each check, whatever its status."""
        try:
            with urlopen(f"{self.admin_url}/readyz", timeout=5) as answer:  # noqa: S310 - loopback
                body = answer.read()
        except HTTPError as error:
            with error:
                body = error.read()
        return dict(orjson.loads(body)["checks"])

    def metrics(self) -> str:
        with urlopen(f"{self.admin_url}/metrics", timeout=5) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running().exit_code()

    def wait_exit(self, seconds: float = 15.0) -> int:
        """The exit code; minus the signal's number when one ended it."""
        wait_until(lambda: self.exit_code() is not None, seconds, f"end of {self.module}")
        code = self.exit_code()
        assert code is not None
        return code

    def send(self, number: signal.Signals) -> None:
        self._running().send(number)

    def terminate(self, seconds: float = 15.0) -> int:
        """SIGTERM; returns the exit code, fails when the process is not gone in time."""
        self.send(signal.SIGTERM)
        return self.wait_exit(seconds)

    def kill(self) -> None:
        """kill -9 of the whole group; returns when it is gone."""
        if self.child is not None:
            self.child.kill()

    def text(self) -> str:
        """Everything it has logged, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines of its log, all of them or those of one event name."""
        lines = [line for line in self.text().splitlines() if line.startswith("{")]
        events: list[dict[str, Any]] = [orjson.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if name is None or event.get("event") == name]

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _running(self) -> Child:
        assert self.child is not None, f"{self.module} was not started"
        return self.child
