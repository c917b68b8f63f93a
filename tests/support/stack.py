"""`python -m deploy.local up` as a process of a test."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

from tests.support.processes import PROJECT, free_port, wait_until

START_SECONDS = 60.0
DAEMONS = ("TICKETD", "RELAYD", "NOTIFYD")


class StackProcess:
    """A stack on free ports in a directory of its own; as a context manager it is killed at the
    end, and its children with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        variables = ("HTTP_ADDR", *(f"{name}_METRICS_ADDR" for name in DAEMONS))
        ports: list[int] = []
        for _ in variables:
            ports.append(free_port(ports))
        addresses = {name: f"127.0.0.1:{port}" for name, port in zip(variables, ports, strict=True)}
        self.api = addresses["HTTP_ADDR"]
        self.environment = {
            "PATH": os.defpath,
            "LC_ALL": "C.UTF-8",
            "LOCAL_DIR": str(directory),
            **addresses,
            **environment,
        }
        self._output = directory.parent / f"{directory.name}.output"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deploy.local", "up"],
                env=self.environment,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        family = self.family() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        # They die by themselves; a test that failed must not leave the slow ones behind.
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_ready(self) -> Self:
        def ready() -> bool:
            assert self.process.poll() is None, self.output()
            return "Everything is ready" in self.output()

        wait_until(ready, START_SECONDS, "ready stack")
        return self

    def wait_end(self, seconds: float = 40.0) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the stack does not end:\n{self.output()}") from None

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait_end()

    def family(self) -> list[psutil.Process]:
        """Every process that descends from the stack."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def pid_of(self, name: str) -> int:
        """From the table of the start."""
        row = re.search(rf"^\s*{name} .*?\s(\d+)\s+\S+\.log", self.output(), re.MULTILINE)
        assert row is not None, self.output()
        return int(row[1])
