"""The processes of ticketd: Granian with its workers, and what the admin port knows of them.

Workers that die come back. On SIGTERM or SIGINT readiness fails at once; Granian closes idle
connections, lets requests in flight finish and takes no new ones; a worker that is not done in
time is killed.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from servicedesk.environment import Address
from servicedesk.logs import LibraryHandler, Log
from ticketd.config import Config
from ticketd.metrics import DATABASE_STATE, HEARTBEAT, DatabaseState, forget_worker, gauges

TARGET = "ticketd.app:create_app"
# Above the limit of the pipeline, which answers with a problem; Granian only closes.
BUFFER_BYTES = 64 * 1024
BACKLOG = 4096
# What is left of SHUTDOWN_TIMEOUT for killing, joining and cleaning up.
KILL_SHARE = 0.8
POLL_SECONDS = 0.01
SIGNAL_POLL_SECONDS = 0.05
SILENT_SECONDS = 10.0
CONNECT_SECONDS = 0.5
STUCK_SECONDS = 60.0
DATABASE_REASONS = {
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
        return now - found.get(HEARTBEAT, now)


class PolledEvent(threading.Event):
    """An event that a signal handler may set while the main thread waits for it.

    The kernel may run the C half of a handler on any thread; Python runs the other half on the
    main thread, but only when that comes back from its lock. Without a time-out it would not, and
    a SIGTERM that met the admin port's thread would be heard at the next one.
    """

    def wait(self, timeout: float | None = None) -> bool:
        give_up = None if timeout is None else time.monotonic() + timeout
        while not super().wait(SIGNAL_POLL_SECONDS):
            if give_up is not None and time.monotonic() >= give_up:
                return False
        return True


class Server(MPServer):
    """Granian with our logs, our stop and our accounts of dead workers."""

    def __init__(
        self, *, config: Config, address: Address, directory: Path, workers: Workers, log: Log
    ) -> None:
        super().__init__(
            target=TARGET,
            factory=True,
            address=address.host,
            port=address.port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            websockets=False,
            loop=Loops.uvloop,
            workers=config.workers,
            runtime_threads=1,
            runtime_mode=RuntimeModes.st,
            backlog=BACKLOG,
            # Connections, not requests: those are limited where the work is.
            backpressure=config.connection_limit,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(config.header_seconds * 1000),
                max_buffer_size=BUFFER_BYTES,
            ),
            log_level=LogLevels.info if log.enabled("debug") else LogLevels.warning,
            log_dictconfig=_log_settings(config.log_level),
            respawn_failed_workers=True,
        )
        self.main_loop_interrupt = PolledEvent()
        self._directory = directory
        self._known_workers = workers
        self._log = log
        self._grace_seconds = config.shutdown_seconds * KILL_SHARE

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        self._known_workers.stop()
        # Ctrl-C reaches the workers too, and their end is then no failure.
        for worker in self.wrks:
            worker.interrupt_by_parent = True
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]  # as it is

    def _respawn_workers(self, workers: list[int], *args: Any, **kwargs: Any) -> None:
        for index in workers:
            pid = self.wrks[index].inner.pid
            self._log.error("worker_died", pid=pid, exit_code=self.wrks[index].inner.exitcode)
            forget_worker(pid, self._directory)
        super()._respawn_workers(workers, *args, **kwargs)

    def _stop_workers(self) -> None:
        self._known_workers.stop()
        workers: list[Any] = self.wrks
        give_up = time.monotonic() + self._grace_seconds
        for worker in workers:
            worker.terminate()
        # Polled, because another thread of Granian waits for the same processes, and a join that
        # loses that race returns at once.
        while any(worker.is_alive() for worker in workers) and time.monotonic() < give_up:
            time.sleep(POLL_SECONDS)
        for worker in workers:
            if worker.is_alive():
                self._log.error("worker_killed", pid=worker.inner.pid)
                worker.kill()
                worker.join()
        workers.clear()


def granian_handler(minimum: str) -> logging.Handler:
    """Named in the settings below, which travel to the workers."""
    return LibraryHandler(Log("ticketd", level=minimum))


def _log_settings(level: str) -> dict[str, Any]:
    logger = {"handlers": ["json"], "propagate": False}
    return {
        "handlers": {"json": {"()": f"{__name__}.granian_handler", "minimum": level}},
        "loggers": {"_granian": logger, "granian.access": logger},
    }
