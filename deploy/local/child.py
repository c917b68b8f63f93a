"""A child process with a log file: it dies with its parent, also on kill -9 of the parent.

It leads its own process group, so Ctrl-C in the terminal reaches only the supervisor; stopping it
ends the whole group. Start children from a thread that lives as long as they shall: the kernel
takes the end of the starting thread for the end of the parent.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LAUNCHER = Path(__file__).with_name("launcher.py")
POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 8192


class StartError(Exception):
    """Something of the stack does not start; the text is one line for the person."""


class NotReadyError(StartError):
    """It runs, and its time to get ready is over."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group by number, which need no entry in /etc/passwd."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. `environment` is the whole environment of the child."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    directory: Path = Path("/")
    account: Account | None = None
    death_signal: signal.Signals = signal.SIGKILL
    with_pipes: bool = False


def ending(code: int) -> str:
    """An exit code in words; a negative one is the signal's number."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


class Child:
    """One run of a program. Standard error, and standard output unless piped, append to its log."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.log_start = program.log.stat().st_size if program.log.exists() else 0
        account = f"{program.account.uid}:{program.account.gid}" if program.account else "-"
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        pipes = subprocess.PIPE if program.with_pipes else None
        with program.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, str(int(program.death_signal)), account, *program.command],
                env=dict(program.environment),
                cwd=program.directory,
                stdin=pipes or subprocess.DEVNULL,
                stdout=pipes or log,
                stderr=log,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Standard input and output of a program `with_pipes`."""
        assert self._process.stdin is not None  # noqa: S101 - misuse by our own code
        assert self._process.stdout is not None  # noqa: S101 - misuse by our own code
        return self._process.stdin, self._process.stdout

    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number when one ended it."""
        code = self._process.poll()
        if code is not None:
            self.end_group()
        return code

    def send(self, number: signal.Signals) -> None:
        """To the leader of the group only."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the whole group at once and reap it."""
        self.end_group()
        self._process.wait()
        self._close_pipes()

    def stop(self, number: signal.Signals, seconds: float) -> int | None:
        """Ask with a signal, wait, and kill what is left. Returns the exit code, None if it had to
        be killed."""
        self.send(number)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.end_group()
        self._close_pipes()
        return code

    def finish(self, seconds: float) -> int:
        """Wait for a program that ends by itself; returns its exit code. One that takes longer is
        killed, and NotReadyError raised."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            last = self.last_words()
            self.kill()
            raise NotReadyError(
                f"{self.program.name} does not end after {seconds:g} s: {last} "
                f"(log: {self.program.log})"
            ) from None
        self.end_group()
        self._close_pipes()
        return code

    def end_group(self) -> None:
        """Kill whatever is left of the group, without waiting."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self, lines: int = 1) -> str:
        """The last lines that this run wrote to its log."""
        with self.program.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, size - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        written = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(line.removeprefix("error: ") for line in written[-lines:])

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll `ready` until it is true.

        Raises StartError when the child ends, NotReadyError when the time is over, both with its
        last words.
        """
        name, log = self.program.name, self.program.log
        deadline = time.monotonic() + seconds
        while not ready():
            code = self.exit_code()
            if code is not None:
                raise StartError(f"{name} {ending(code)}: {self.last_words()} (log: {log})")
            if time.monotonic() > deadline:
                last = self.last_words()
                raise NotReadyError(f"{name} is not ready after {seconds:g} s: {last} (log: {log})")
            time.sleep(POLL_SECONDS)

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
