"""A worker that starts is neither stuck nor unready, also when its database makes it wait."""

from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import StartDaemon
from tests.support.outages import hanging
from tests.support.processes import Daemon, free_port, http_status, wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.ticketd.test_process import listens, workers


class Watch:
    """What the admin port says of liveness and readiness, again and again."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.alive: set[int | None] = set()
        self.ready: set[int | None] = set()

    def look(self) -> None:
        self.alive.add(http_status(f"{self._daemon.admin_url}/healthz"))
        self.ready.add(http_status(f"{self._daemon.admin_url}/readyz"))


def has_state(directory: Path) -> bool:
    """Has a worker written its gauges for the first time?"""
    return any(path.stat().st_size for path in directory.glob("**/gauge_livemin_*.db"))


def test_worker_whose_database_is_silent_is_starting_and_not_stuck(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with hanging() as port:
        url = f"postgresql://u:p@127.0.0.1:{port}/d"
        daemon = start_daemon("ticketd", {"DATABASE_URL": url})
        watch = Watch(daemon)
        wait_until(lambda: http_status(f"{daemon.admin_url}/healthz"), 20, "admin port")
        reasons: set[str] = set()

        def has_looked() -> bool:
            watch.look()
            reason = daemon.checks()["database"]
            looked = bool(daemon.events("database_not_ready"))
            if has_state(tmp_path) and not looked:
                reasons.add(reason)
            return looked

        wait_until(has_looked, 30, "look at the database")
        wait_until(lambda: "server" not in daemon.checks(), 15, "a server that listens")
        assert daemon.checks() == {"database": "unreachable"}
    assert watch.alive == {200}
    assert watch.ready == {503}
    assert reasons == {"starting"}


def test_new_worker_takes_nothing_from_the_state_of_the_others(
    start_daemon: StartDaemon, database_url: str
) -> None:
    port = urlsplit(database_url).port
    assert port is not None
    with TcpProxy(free_port([port]), port) as proxy:
        url = database_url.replace(f":{port}/", f":{proxy.port}/")
        daemon = start_daemon("ticketd", {"DATABASE_URL": url, "TICKETD_WORKERS": "2"})
        daemon.wait_ready()
        wait_until(lambda: sum(map(listens, workers(daemon))) == 2, 20, "second worker")
        # So long that its start is seen.
        proxy.delay(0.1, 0.1)
        victim = workers(daemon)[0]
        victim.kill()
        watch = Watch(daemon)

        def is_replaced() -> bool:
            watch.look()
            now = [worker for worker in workers(daemon) if worker.pid != victim.pid]
            return sum(map(listens, now)) == 2

        wait_until(is_replaced, 30, "new worker")
    assert (watch.alive, watch.ready) == ({200}, {200})
