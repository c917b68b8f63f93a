"""`python -m ticketd` as a process: start, probes, metrics, stop, and starts that fail."""

import asyncio
import hashlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import orjson
import psutil
import psycopg
import pytest

from tests.conftest import StartDaemon
from tests.support.metrics import sample
from tests.support.processes import Daemon, free_port, wait_until
from tests.support.raw_http import request_bytes
from tests.ticketd.application import NEW
from ticketd.metrics import forget_worker

Environment = dict[str, str]


def workers(daemon: Daemon) -> list[psutil.Process]:
    """The worker processes, without multiprocessing's own tracker."""
    found = []
    for child in psutil.Process(daemon.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def listens(worker: psutil.Process) -> bool:
    """A worker has a listening socket of its own once it answers requests."""
    with suppress(psutil.NoSuchProcess):
        return any(each.status == psutil.CONN_LISTEN for each in worker.net_connections("tcp"))
    return False


def test_api_and_admin_port_answer_their_probes(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("ticketd", {}).wait_ready()
    for url in (daemon.url, daemon.admin_url):
        assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
        assert httpx.get(f"{url}/readyz").json() == {
            "status": "ready",
            "checks": {"database": "ok"},
        }
        assert "ticketd_database_state 1.0" in httpx.get(f"{url}/metrics").text
    assert len(daemon.events("memory_store")) == 1
    assert daemon.terminate() == 0


def test_metrics_are_the_sum_of_all_workers(start_daemon: StartDaemon, database_url: str) -> None:
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url, "TICKETD_WORKERS": "2"})
    daemon.wait_ready()
    wait_until(lambda: len(workers(daemon)) == 2, 10, "second worker")
    served: set[int] = set()

    def both_have_served() -> bool:
        # A new connection each time: the kernel spreads connections over the workers.
        assert httpx.get(f"{daemon.url}/tickets").status_code == 200
        served.add(len(served))
        return all(_requests_of(daemon, number) for number in (0, 1))

    wait_until(both_have_served, 20, "request on both workers")
    for url in (daemon.admin_url, daemon.url):

        def all_are_counted(url: str = url) -> bool:
            metrics = httpx.get(f"{url}/metrics").text
            name = 'ticketd_http_requests_total{method="GET",route="/tickets",status="200"}'
            counted = sample(metrics, name)
            assert counted <= len(served)
            return counted == len(served)

        wait_until(all_are_counted, 5, "request counted on both")


def _requests_of(daemon: Daemon, number: int) -> bool:
    """Has the worker of this number an entry for a list in its own metrics file?"""
    directory = _metrics_directory(daemon)
    path = directory / f"counter_{number}.db"
    return path.exists() and b'"/tickets"' in path.read_bytes()


def _metrics_directory(daemon: Daemon) -> Path:
    return Path(workers(daemon)[0].environ()["PROMETHEUS_MULTIPROC_DIR"])


def test_metrics_directory_is_private_and_goes_with_the_process(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("ticketd", {}).wait_ready()
    directory = _metrics_directory(daemon)
    assert directory.stat().st_mode & 0o077 == 0
    assert daemon.terminate() == 0
    assert not directory.exists()


def test_killed_worker_comes_back(start_daemon: StartDaemon, database_url: str) -> None:
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url, "TICKETD_WORKERS": "2"})
    daemon.wait_ready()
    wait_until(lambda: len(workers(daemon)) == 2, 10, "second worker")
    httpx.post(f"{daemon.url}/tickets", json=NEW)
    created = "ticketd_http_requests_total"
    wait_until(lambda: sample(daemon.metrics(), created) == 1, 5, "counted request")
    directory = _metrics_directory(daemon)
    # All of each worker's: what it has for gauges, counters and histograms.
    wait_until(lambda: len(list(directory.glob("*_[01].db"))) == 8, 10, "files of two workers")
    files = set(directory.iterdir())
    before = {worker.pid for worker in workers(daemon)}
    for victim in workers(daemon):
        victim.kill()

    def both_are_dead() -> bool:
        return {event["pid"] for event in daemon.events("worker_died")} == before

    wait_until(both_are_dead, 10, "news of two dead workers")
    wait_until(lambda: sum(map(listens, workers(daemon))) == 2, 20, "two new workers that listen")
    wait_until(daemon.is_ready, 10, "readiness")
    assert before.isdisjoint(worker.pid for worker in workers(daemon))
    assert sample(daemon.metrics(), created) == 1, "the dead workers' counters stay in the sum"
    assert httpx.post(f"{daemon.url}/tickets", json=NEW).status_code == 201
    wait_until(lambda: sample(daemon.metrics(), created) == 2, 5, "counted on")
    wait_until(lambda: set(directory.iterdir()) == files, 10, "no more files than before")
    assert daemon.terminate() == 0


def test_gauges_of_a_dead_worker_go_with_it(tmp_path: Path) -> None:
    # Over a daemon this is a moment, until the next worker writes its own.
    for name in ("gauge_livemin_0.db", "gauge_livemin_1.db", "gauge_livesum_0.db", "counter_0.db"):
        (tmp_path / name).touch()
    forget_worker(0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"gauge_livemin_1.db", "counter_0.db"}


def test_worker_that_cannot_be_started_is_tried_again_and_the_other_goes_on(
    start_daemon: StartDaemon, database_url: str
) -> None:
    daemon = start_daemon(
        "ticketd", {"DATABASE_URL": database_url, "TICKETD_WORKERS": "2"}
    ).wait_ready()
    main = psutil.Process(daemon.pid)
    wait_until(lambda: sum(map(listens, workers(daemon))) == 2, 10, "second worker that listens")
    limits = main.rlimit(psutil.RLIMIT_NOFILE)
    main.rlimit(psutil.RLIMIT_NOFILE, (main.num_fds(), limits[1]))
    workers(daemon)[0].kill()
    wait_until(lambda: daemon.events("worker_not_started"), 5, "failed start")
    assert len(workers(daemon)) == 1
    assert httpx.get(f"{daemon.url}/healthz").status_code == 200
    main.rlimit(psutil.RLIMIT_NOFILE, limits)
    wait_until(lambda: len(workers(daemon)) == 2, 5, "new worker")
    assert daemon.terminate() == 0


def test_workers_end_when_their_parent_is_killed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("ticketd", {}).wait_ready()
    orphans = workers(daemon)
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: not any(orphan.is_running() for orphan in orphans), 10, "end of workers")
    assert daemon.events("parent_gone")


class Load:
    """Creates as fast as it may on keep-alive connections until the server stops answering."""

    def __init__(self, url: str, callers: int) -> None:
        self._url = url
        self._callers = callers
        self.created: list[str] = []
        self.other: list[int] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(self._callers)))

    async def _call(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=10) as client:
            while True:
                try:
                    answer = await client.post("/tickets", json=NEW)
                except (
                    httpx.ConnectError,
                    httpx.RemoteProtocolError,
                    httpx.ReadError,
                    httpx.WriteError,
                ):
                    return
                if answer.status_code == 201:
                    self.created.append(answer.json()["id"])
                else:
                    self.other.append(answer.status_code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_under_load_answers_every_accepted_request(
    start_daemon: StartDaemon, database_url: str, number: signal.Signals
) -> None:
    daemon = start_daemon(
        "ticketd",
        {"DATABASE_URL": database_url, "TICKETD_WORKERS": "2", "SHUTDOWN_TIMEOUT": "8s"},
    ).wait_ready()
    load = Load(daemon.url, callers=12)

    async def act() -> float:
        running = asyncio.create_task(load.run())
        while len(load.created) < 200:
            await asyncio.sleep(0.01)
        if number is signal.SIGINT:
            # Ctrl-C reaches the whole group: the workers hear it from the terminal too.
            os.killpg(daemon.pid, number)
        else:
            daemon.send(number)
        began = time.monotonic()
        await running
        return began

    began = asyncio.run(act())
    assert daemon.wait_exit(8) == 0
    assert time.monotonic() - began < 8
    assert load.other == []
    with psycopg.connect(database_url) as connection:
        kept = [str(row[0]) for row in connection.execute("SELECT id FROM tickets").fetchall()]
        events = connection.execute("SELECT count(*) FROM outbox").fetchall()[0][0]
    assert sorted(kept) == sorted(load.created)
    assert events == len(kept)
    assert daemon.events("worker_killed") == []
    logged = [event["status"] for event in daemon.events("request")]
    assert logged.count(201) == len(kept)


def waiting_statements(url: str) -> int:
    """How many wait for a lock in the database of this URL."""
    with psycopg.connect(url) as watcher:
        found = watcher.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return int(found[0]) if found else 0


def test_stop_with_a_full_queue_answers_all_of_it(
    start_daemon: StartDaemon, database_url: str
) -> None:
    """Sixty creations wait in a queue of sixty, one statement each, when the stop comes."""
    limits = {"TICKETD_LANES": "1", "TICKETD_BATCH_LIMIT": "1", "TICKETD_QUEUE_LIMIT": "60"}
    patience = {"TICKETD_REQUEST_TIMEOUT": "30s", "SHUTDOWN_TIMEOUT": "30s"}
    environment = {"DATABASE_URL": database_url} | limits | patience
    daemon = start_daemon("ticketd", environment).wait_ready()
    body = orjson.dumps(NEW)
    headers = [("Content-Type", "application/json")]
    request = request_bytes("POST", "/tickets", headers, body)
    address = ("127.0.0.1", int(daemon.url.rpartition(":")[2]))
    with ExitStack() as stack:
        blocker = stack.enter_context(psycopg.connect(database_url))
        blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
        clients = []
        for number in range(61):
            clients.append(stack.enter_context(socket.create_connection(address)))
            clients[-1].sendall(request)
            if number == 0:
                # It is under way and not in the queue, which has room for the others then.
                wait_until(lambda: waiting_statements(database_url) == 1, 10, "first statement")
        in_flight = "ticketd_http_requests_in_flight"
        wait_until(lambda: sample(daemon.metrics(), in_flight) == 61, 10, "full queue")
        daemon.send(signal.SIGTERM)
        wait_until(lambda: not daemon.is_ready(), 10, "failing readiness")
        blocker.rollback()
        answers = [client.makefile("rb").readline() for client in clients]
    assert answers == [b"HTTP/1.1 201 Created\r\n"] * 61
    assert daemon.wait_exit(10) == 0
    with psycopg.connect(database_url) as connection:
        for table in ("tickets", "outbox"):
            found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert found == (61,)


def test_readiness_fails_at_once_and_liveness_stays_good_while_a_request_finishes(
    start_daemon: StartDaemon, database_url: str
) -> None:
    patience = {"TICKETD_REQUEST_TIMEOUT": "30s", "SHUTDOWN_TIMEOUT": "30s"}
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url} | patience).wait_ready()
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
        connection = socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2])))
        with connection, connection.makefile("rb") as answer:
            connection.sendall(b"GET /tickets HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(lambda: waiting_statements(database_url) == 1, 5, "waiting statement")
            daemon.send(signal.SIGTERM)
            wait_until(lambda: not daemon.is_ready(), 10, "failing readiness")
            ready = httpx.get(f"{daemon.admin_url}/readyz")
            assert ready.status_code == 503
            assert ready.json()["checks"]["server"] == "stopping"
            assert httpx.get(f"{daemon.admin_url}/healthz").status_code == 200
            assert daemon.exit_code() is None
            blocker.rollback()
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    assert daemon.wait_exit(10) == 0


def test_stop_ends_in_time_although_a_request_hangs(
    start_daemon: StartDaemon, database_url: str
) -> None:
    limits = {"TICKETD_REQUEST_TIMEOUT": "120s", "SHUTDOWN_TIMEOUT": "4s"}
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url} | limits).wait_ready()
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE")
        with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) as hanging:
            hanging.sendall(b"GET /tickets HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_until(
                lambda: sample(daemon.metrics(), "ticketd_http_requests_in_flight") == 1,
                5,
                "request in flight",
            )
            began = time.monotonic()
            daemon.send(signal.SIGTERM)
            assert daemon.wait_exit(30) == 0
            assert time.monotonic() - began > 2
    assert len(daemon.events("worker_killed")) == 1


@pytest.mark.parametrize("variable", ["HTTP_ADDR", "METRICS_ADDR"])
def test_taken_port_is_one_line_that_names_its_variable(
    start_daemon: StartDaemon, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = start_daemon("ticketd", {variable: address})
        assert daemon.wait_exit() == 1
    errors = [line for line in daemon.text().splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {variable} {address} ")
    assert "Traceback" not in daemon.text()


def test_port_of_another_ticketd_is_taken(start_daemon: StartDaemon) -> None:
    first = start_daemon("ticketd", {}).wait_ready()
    second = start_daemon("ticketd", {"HTTP_ADDR": first.environment["HTTP_ADDR"]})
    assert second.wait_exit() == 1
    assert "error: HTTP_ADDR" in second.text()
    assert first.is_ready()


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"HTTP_ADDR": "127.0.0.1:99999"}, "HTTP_ADDR"),
        ({"TICKETD_WORKERS": "two"}, "TICKETD_WORKERS"),
        ({"TICKETD_WORKERS": "2"}, "TICKETD_WORKERS"),
        ({"HTTP_ADDR": "0.0.0.0:8080"}, "TICKETD_AUTH"),
        ({"TICKETD_AUTH": "tokens"}, "TICKETD_TOKENS_FILE"),
        ({"TICKETD_TOKENS_FILE": "/nowhere/tokens"}, "TICKETD_TOKENS_FILE"),
        ({"APP_ENV": "production"}, "TICKETD_CURSOR_SECRET"),
        ({"HTTP_ADDR": "127.0.0.1:9", "METRICS_ADDR": "localhost:9"}, "METRICS_ADDR"),
    ],
)
def test_bad_setting_ends_the_start_with_code_2_and_one_line(
    start_daemon: StartDaemon, environment: Mapping[str, str], named: str
) -> None:
    daemon = start_daemon("ticketd", environment)
    assert daemon.wait_exit() == 2
    lines = daemon.text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {named} ")


def test_tokens_open_what_their_scopes_say_and_are_read_again(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    def line(name: str, token: str, scopes: str) -> str:
        return f"{name} {hashlib.sha256(token.encode()).hexdigest()} {scopes}\n"

    def status(method: str, path: str, token: str | None) -> int:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        body = NEW if method == "POST" else None
        return httpx.request(method, daemon.url + path, headers=headers, json=body).status_code

    tokens = tmp_path / "tokens"
    tokens.write_text("# имя, SHA-256, права\n" + line("reader", "r", "tickets:read"))
    daemon = start_daemon("ticketd", {"TICKETD_TOKENS_FILE": str(tokens)}).wait_ready()
    assert status("GET", "/tickets", None) == 401
    assert status("GET", "/tickets", "wrong") == 401
    assert status("GET", "/tickets", "r") == 200
    assert status("POST", "/tickets", "r") == 403
    assert [status("GET", "/metrics", token) for token in (None, "r")] == [401, 200]
    assert [status("GET", path, None) for path in ("/healthz", "/readyz", "/openapi.yaml")] == [
        200
    ] * 3

    tokens.write_text("broken\n")
    wait_until(
        lambda: status("GET", "/tickets", "r") == 200 and daemon.events("tokens_kept"),
        10,
        "refusal of the broken file",
    )
    tokens.write_text(line("writer", "w", "tickets:read,tickets:write"))
    wait_until(lambda: status("POST", "/tickets", "w") == 201, 10, "new token")
    assert status("GET", "/tickets", "r") == 401
    callers = {event["caller"] for event in daemon.events("request") if event["status"] == 201}
    assert callers <= {"writer"}


def test_cursor_of_one_worker_is_good_for_the_other(
    start_daemon: StartDaemon, database_url: str
) -> None:
    daemon = start_daemon("ticketd", {"DATABASE_URL": database_url, "TICKETD_WORKERS": "2"})
    daemon.wait_ready()
    for _ in range(2):
        httpx.post(f"{daemon.url}/tickets", json=NEW)
    cursor = httpx.get(f"{daemon.url}/tickets", params={"limit": 1}).json()["next_cursor"]
    answers = [httpx.get(f"{daemon.url}/tickets", params={"cursor": cursor}) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}


def test_slow_headers_are_cut_off(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("ticketd", {"TICKETD_HEADER_TIMEOUT": "300ms"}).wait_ready()
    with socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) as slow:
        slow.settimeout(5)
        slow.sendall(b"GET /tickets HTTP/1.1\r\nHost: x\r\n")
        assert slow.recv(100) == b""


def test_absent_database_does_not_stop_the_start(start_daemon: StartDaemon) -> None:
    url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x"
    daemon = start_daemon("ticketd", {"DATABASE_URL": url})
    wait_until(lambda: daemon.events("database_not_ready"), 15, "look at the database")
    # Until it listens, the server is not ready either.
    wait_until(lambda: "server" not in daemon.checks(), 15, "a server that listens")
    ready = httpx.get(f"{daemon.admin_url}/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (503, {"database": "unreachable"})
    assert httpx.get(f"{daemon.url}/tickets").status_code == 503
    assert "secret" not in daemon.text()
    assert daemon.terminate() == 0
