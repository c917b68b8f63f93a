"""The processes of ticketd: the workers, whoever keeps them running, and what the admin port knows
of them.

Workers that die come back. On SIGTERM or SIGINT readiness fails at once; the workers take no new
connections and let requests in flight finish; one that is not done in time is killed.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from servicedesk.environment import Address
from servicedesk.logs import Log
from ticketd import worker
from ticketd.metrics import (
    DATABASE_STATE,
    HEARTBEAT,
    STORAGE_UP,
    DatabaseState,
    forget_worker,
    gauges,
)
from ticketd.readiness import storage_check

# What is left of SHUTDOWN_TIMEOUT for killing, joining and cleaning up.
KILL_SHARE = 0.8
# A worker that dies at its start again and again must not keep a core busy.
RESTART_SECONDS = 1.0
SILENT_SECONDS = 10.0
CONNECT_SECONDS = 0.5
STUCK_SECONDS = 60.0
DATABASE_REASONS = {
    DatabaseState.STARTING: "starting",
    DatabaseState.OK: "ok",
    DatabaseState.UNREACHABLE: "unreachable",
    DatabaseState.OUTDATED: "the schema is too old; run: python -m servicedesk.migrate",
}


class Workers:
    """What the main process knows of its workers, from the metrics that they share."""

    def __init__(self, directory: Path, address: Address, wall_clock: Callable[[], float]) -> None:
        self._directory = directory
        self._address = address
        self._has_listened = False
        self._wall_clock = wall_clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def checks(self) -> dict[str, str]:
        """The dependencies as /readyz shows them."""
        found = gauges(self._directory)
        state = found.get(DATABASE_STATE)
        reason = "starting" if state is None else DATABASE_REASONS[DatabaseState(int(state))]
        checks = {"database": reason}
        if STORAGE_UP in found:
            checks["storage"] = storage_check(is_up=found[STORAGE_UP] > 0)
        silent_seconds = self._silent_seconds(found)
        if self._stopping.is_set():
            checks["server"] = "stopping"
        elif silent_seconds > SILENT_SECONDS:
            checks["server"] = f"a worker has been silent for {silent_seconds:.0f} s"
        elif not self._listens():
            checks["server"] = "starting"
        return checks

    def are_alive(self) -> bool:
        """False when an event loop has stood still for so long that only a restart helps."""
        return self._stopping.is_set() or (
            self._silent_seconds(gauges(self._directory)) < STUCK_SECONDS
        )

    def _listens(self) -> bool:
        """A worker reports its store before it listens, so the first time this is tried out."""
        if not self._has_listened:
            address = (self._address.host, self._address.port)
            try:
                socket.create_connection(address, timeout=CONNECT_SECONDS).close()
            except OSError:
                return False
            self._has_listened = True
        return True

    def _silent_seconds(self, found: Mapping[str, float]) -> float:
        now = self._wall_clock()
        # A worker that has just come into being has 0 there for a moment.
        return now - (found.get(HEARTBEAT) or now)


class Supervisor:
    """Starts as many workers as the settings say and keeps them running until SIGTERM or SIGINT.
    The workers listen on `address` together (SO_REUSEPORT)."""

    def __init__(
        self,
        *,
        count: int,
        shutdown_seconds: float,
        address: Address,
        directory: Path,
        workers: Workers,
        log: Log,
    ) -> None:
        self._count = count
        self._grace_seconds = shutdown_seconds * KILL_SHARE
        self._address = address
        self._directory = directory
        self._workers = workers
        self._log = log
        # Forking a process with threads, as the admin port has them, may deadlock the child.
        self._context = multiprocessing.get_context("spawn")
        # By their numbers, which those that take their places get again.
        self._running: dict[int, SpawnProcess] = {}
        self._stopping = False

    def run(self) -> None:
        """Returns when all workers are gone."""
        # A signal may reach any thread; through this descriptor it wakes the one that waits here.
        ears, mouth = socket.socketpair()
        with ears, mouth:
            for end in (ears, mouth):
                os.set_blocking(end.fileno(), False)
            signal.set_wakeup_fd(mouth.fileno())
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._hear)
            try:
                self._keep_running(ears)
            finally:
                self._end()
                signal.set_wakeup_fd(-1)

    def _hear(self, *_: object) -> None:
        self._stopping = True
        self._workers.stop()

    def _keep_running(self, ears: socket.socket) -> None:
        start_at = 0.0
        while not self._stopping:
            now = time.monotonic()
            if self._missing() and now >= start_at:
                self._start()
                start_at = now + RESTART_SECONDS
            sentinels = [process.sentinel for process in self._running.values()]
            wait([ears, *sentinels], start_at - now if self._missing() else None)
            self._bury()

    def _missing(self) -> list[int]:
        return [number for number in range(self._count) if number not in self._running]

    def _start(self) -> None:
        """Start those that are missing. One that cannot be started is for another time, and no
        reason to give up those that run."""
        for number in self._missing():
            process = self._context.Process(
                target=worker.run, args=(self._address, number), name="ticketd worker"
            )
            try:
                process.start()
            except OSError as error:  # no memory, no descriptor, too many processes
                self._log.error("worker_not_started", error=error)
                return
            self._running[number] = process

    def _bury(self) -> None:
        """Take the dead off the list; not while stopping, when ending is what they are to do."""
        for number, process in [] if self._stopping else list(self._running.items()):
            if process.exitcode is not None:
                del self._running[number]
                self._log.error("worker_died", pid=process.pid, exit_code=process.exitcode)
                forget_worker(number, self._directory)

    def _end(self) -> None:
        give_up = time.monotonic() + self._grace_seconds
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.join(max(give_up - time.monotonic(), 0.0))
            if process.exitcode is None:
                self._log.error("worker_killed", pid=process.pid)
                process.kill()
                process.join()
