"""The local stack: starts all in order, keeps the daemons running, stops all in order.

A daemon that dies is started again; a server that dies ends the stack, because what it held in
memory is gone. However the stack ends, no process of it is left.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from deploy.local.backlog import Backlog
from deploy.local.child import Child, StartError, ending
from deploy.local.config import DAEMONS, Config
from deploy.local.directory import LocalDirectory
from deploy.local.interrupt import Interrupt
from deploy.local.loopback import reachable
from deploy.local.ports import bind_error
from deploy.local.screen import ProcessRow, Screen
from deploy.local.servers import Servers, one_line
from deploy.local.service import Server, Service
from servicedesk.backoff import Backoff
from servicedesk.database import MIGRATIONS
from servicedesk.environment import Address
from servicedesk.migrate import MigrationError, migrate, read_migrations

WATCH_SECONDS = 0.1
RESTART_BACKOFF = Backoff(base_seconds=0.5, cap_seconds=15.0)
# A daemon that ran this long is healthy; its next end counts as the first.
HEALTHY_SECONDS = 60.0
DRAIN_SECONDS = 15.0
RECEIVER_SECONDS = 2.0
# A killed daemon's work is free for its next run when its lease has ended: here, while somebody
# watches. The user's values win.
FOR_ONLOOKERS = {
    "RELAYD_LEASE": "5s",
    "RELAYD_DELIVERY_TIMEOUT": "1s",
    "NOTIFYD_LEASE": "5s",
    "NOTIFYD_SESSION_TIMEOUT": "6s",
    # The mock cluster holds every fetch for all of this time.
    "NOTIFYD_FETCH_WAIT": "10ms",
}


class Keeper:
    """Starts one service again, with growing waits, whenever it has ended."""

    def __init__(self, service: Service, say: Callable[[str], None]) -> None:
        self.service = service
        self._say = say
        self._attempts = 0
        self._started_at = time.monotonic()
        self._restart_at: float | None = None

    def look(self, now: float) -> None:
        """Call it often; `now` is time.monotonic()."""
        child = self.service.child
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._restart_at, self._started_at = None, now
                self._say(f"{self.service.name} runs again, pid {self.service.start().pid}")
        elif child is not None and (code := child.exit_code()) is not None:
            if now - self._started_at > HEALTHY_SECONDS:
                self._attempts = 0
            self._attempts += 1
            wait = RESTART_BACKOFF.delay_seconds(self._attempts, random.random)
            self._restart_at = now + wait
            self._say(
                f"{self.service.name} {ending(code)}; it is started again in {wait:.1f} s "
                f"(log: {self.service.log})"
            )


class Stack:
    """One run of the stack in a directory that the caller holds."""

    def __init__(self, config: Config, directory: LocalDirectory, screen: Screen) -> None:
        self._config = config
        self._directory = directory
        self._screen = screen
        self._servers: Servers | None = None
        self._started: list[Server] = []
        self._services: list[Service] = []

    def start(self, interrupt: Interrupt) -> None:
        """Returns when everything is ready. Raises StartError, StopRequested or OSError."""
        self._require_free_addresses()
        servers = self._servers = Servers(self._config, self._directory, self._screen.say)
        with interrupt.allowed():
            servers.require(self._screen.say)
        names = ", ".join(server.name for server in servers.own())
        self._screen.say(f"starting {names or 'nothing but the daemons'}")
        for server in servers.own():
            self._started.append(server)
            server.start()
        with interrupt.allowed():
            for server in servers.own():
                server.wait_ready()
            servers.prepare()
        settings = self._settings(servers)
        with interrupt.allowed():
            self._migrate(settings["DATABASE_URL"])
        self._start_services(settings, interrupt)
        self._directory.write_settings(settings)

    def show(self) -> None:
        """The table of processes, and the curl line to paste."""
        running = self._running()
        self._screen.table([self._row(each) for each in running])
        here = _shortest(self._directory.settings)
        self._screen.plain(
            "Everything is ready. Ctrl-C stops it; `make demo` shows the way of a ticket; "
            f"the settings are in {here}.\nCreate a ticket:\n\n"
            f"curl -sS http://{reachable(self._config.http_address)}/tickets "
            "-H 'Content-Type: application/json' "
            '-d \'{"title":"Принтер не печатает","description":"Горит красная лампа",'
            '"requester":"anna@example.org","priority":"high"}\'\n'
        )
        for each in self._services:
            self._screen.follow(each.name, each.log, each.child.log_start if each.child else 0)
        for server in self._started:
            # What a server says of its start is of interest only when it fails.
            self._screen.follow(server.name, server.log, server.log.stat().st_size)

    def watch(self, interrupt: Interrupt) -> None:
        """Stream the logs and keep the daemons running until StopRequested.

        Raises StartError when a server has ended or the terminal is gone.
        """
        keepers = [Keeper(service, self._screen.say) for service in self._services]
        while not self._screen.is_gone:
            self._screen.pump()
            for server in self._started:
                self._require_alive(server)
            for keeper in keepers:
                keeper.look(time.monotonic())
            with interrupt.allowed():
                time.sleep(WATCH_SECONDS)
        raise StartError("nobody reads the output of the stack any more")

    def stop(self) -> None:
        """In order: no new requests, no new events, everything in Kafka taken in, then the servers.

        Each step has its bound; what does not leave is killed.
        """
        if self._services or self._started:
            self._screen.say("stopping")
        for service in self._services:
            if service.name == "notifyd":
                self._drain_kafka(service)
            service.stop()
            self._screen.pump()
        for server in reversed(self._started):
            if server.name != "postgres":
                server.stop()
        for server in self._started:
            server.stop()
        self._screen.pump()
        self._directory.settings.unlink(missing_ok=True)

    def data_places(self) -> str:
        """Where the data is, in words."""
        moved = self._servers.moved_data() if self._servers else None
        also = f", PostgreSQL's in {moved} (remove both to begin anew)" if moved else ""
        return f"{self._directory.path}{also}"

    def kill(self) -> None:
        """Everything at once; safe to call from a signal handler in the midst of `stop`."""
        for each in self._running():
            child = each.child
            if child is not None:
                child.end_group()

    def _running(self) -> list[Server | Service]:
        return [*reversed(self._started), *self._services]

    def _require_free_addresses(self) -> None:
        for variable, address in self._config.addresses():
            error = bind_error(address.port, address.host)
            if error is not None:
                other = Address(address.host, address.port + 10_000 - address.port % 10)
                raise StartError(
                    f"{variable}: cannot listen on {address}: {error.strerror}. Stop what uses "
                    f"it, or choose another, such as {variable}={other} make up"
                )

    def _settings(self, servers: Servers) -> dict[str, str]:
        """Everything that the stack decides for the daemons."""
        config = self._config
        secret = config.webhook_secret or self._directory.webhook_secret()
        receiver = Address("127.0.0.1", self._directory.port("receiver"))
        return {
            "APP_ENV": config.given.get("APP_ENV") or "dev",
            "HTTP_ADDR": str(config.http_address),
            **{f"{name.upper()}_METRICS_ADDR": str(at) for name, at in config.metrics.items()},
            **servers.settings(),
            "KAFKA_TOPIC": config.kafka_topic,
            "KAFKA_DLQ_TOPIC": config.kafka_dlq_topic,
            # A cursor outlives a restart of ticketd.
            "TICKETD_CURSOR_SECRET": config.cursor_secret or self._directory.password("cursor"),
            **{name: config.given.get(name) or value for name, value in FOR_ONLOOKERS.items()},
            "RECEIVER_ADDR": str(receiver),
            "NOTIFYD_CHANNELS": config.channels,
            "NOTIFYD_WEBHOOK_URL": config.webhook_url or f"http://{receiver}/",
            "NOTIFYD_WEBHOOK_SECRET": secret,
        }

    def _start_services(self, settings: dict[str, str], interrupt: Interrupt) -> None:
        config = self._config
        given = {name: value for name, value in config.given.items() if value.strip()}
        given.setdefault("PYTHONUNBUFFERED", "1")
        given.setdefault("TMPDIR", str(self._directory.temporary))
        for daemon in DAEMONS:
            admin = config.metrics[daemon]
            shown = f"{config.http_address}, admin {admin}" if daemon == "ticketd" else str(admin)
            self._services.append(
                Service(
                    name=daemon,
                    module=daemon,
                    environment={**given, **settings, "METRICS_ADDR": str(admin)},
                    address=shown,
                    ready_url=f"http://{reachable(admin)}/readyz",
                    log=self._directory.log(daemon),
                    shutdown_seconds=config.shutdown_seconds,
                )
            )
        if config.webhook_url is None and "webhook" in config.channels:
            address = settings["RECEIVER_ADDR"]
            self._services.append(
                Service(
                    name="receiver",
                    module="deploy.local.receiver",
                    environment={**given, **settings},
                    address=address,
                    ready_url=f"http://{address}/",
                    log=self._directory.log("receiver"),
                    shutdown_seconds=RECEIVER_SECONDS,
                )
            )
        for service in self._services:
            service.start()
        for service in self._services:
            with interrupt.allowed():
                service.wait_ready(self._require_all_alive)

    def _migrate(self, url: str) -> None:
        try:
            migrate(url, read_migrations(MIGRATIONS), report=self._screen.say)
        except (MigrationError, psycopg.Error) as error:
            raise StartError(f"the migration failed: {one_line(error)}") from error

    def _drain_kafka(self, notifyd: Service) -> None:
        """The development cluster forgets everything when it ends, so notifyd takes it in first."""
        kafka = self._servers.kafka if self._servers else None
        if kafka is None or kafka.child is None:
            return
        if kafka.child.exit_code() is not None:
            self._screen.say(
                "the development Kafka has ended and keeps nothing: what was published and not yet "
                "taken in by notifyd is gone, and nobody will be notified of it"
            )
            return
        config = self._config
        backlog = Backlog(kafka.bootstrap_servers, config.kafka_group_id, config.kafka_topic)
        deadline = time.monotonic() + DRAIN_SECONDS
        while (left := backlog.records()) != 0:
            gone = notifyd.child is None or notifyd.child.exit_code() is not None
            if gone or time.monotonic() > deadline:
                count = "an unknown number of" if left is None else left
                self._screen.say(
                    f"{count} events in Kafka were not taken in by notifyd, and the development "
                    "cluster does not keep them: these tickets changed without a notification"
                )
                break
            time.sleep(WATCH_SECONDS)
        backlog.close()

    def _require_all_alive(self) -> None:
        for each in self._running():
            self._require_alive(each)

    def _require_alive(self, each: Server | Service) -> None:
        child = each.child
        if child is not None and (code := child.exit_code()) is not None:
            raise StartError(f"{each.name} {ending(code)}: {child.last_words()} (log: {each.log})")

    def _row(self, each: Server | Service) -> ProcessRow:
        child: Child | None = each.child
        return ProcessRow(
            name=each.name,
            address=each.address,
            pid=str(child.pid) if child else "-",
            log=str(_shortest(each.log)),
        )


def _shortest(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
