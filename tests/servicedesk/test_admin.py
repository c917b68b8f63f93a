"""The admin port: it tells what its probes say, whatever state the daemon is in."""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping

import httpx
import pytest

from servicedesk.admin import DEGRADED, AdminServer, Probes
from servicedesk.environment import Address
from tests.support.processes import wait_until

Serve = Callable[..., str]


def ready() -> Mapping[str, str]:
    return {"database": "ok"}


def no_metrics() -> bytes:
    return b""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts an admin port with the given probes and returns its URL."""
    servers: list[AdminServer] = []

    def start(
        readiness: Callable[[], Mapping[str, str]] = ready,
        metrics: Callable[[], bytes] = no_metrics,
        alive: Callable[[], bool] = lambda: True,
        host: str = "127.0.0.1",
    ) -> str:
        probes = Probes(readiness=readiness, metrics=metrics, alive=alive)
        server = AdminServer(Address(host, 0), probes)
        servers.append(server)
        return f"http://{Address(host, server.port)}"

    yield start
    for server in servers:
        server.close()


def test_ready_daemon_answers_200_with_its_checks(serve: Serve) -> None:
    answer = httpx.get(f"{serve()}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"database": "ok"}}


def test_degraded_daemon_is_ready_and_says_what_is_missing(serve: Serve) -> None:
    checks = {"database": "ok", "storage": f"{DEGRADED}away"}
    answer = httpx.get(f"{serve(readiness=lambda: checks)}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": checks}
    assert httpx.get(f"{serve(readiness=lambda: checks | {'kafka': 'away'})}/readyz").is_error


def test_one_failing_check_answers_503_and_says_which(serve: Serve) -> None:
    url = serve(readiness=lambda: {"database": "away", "kafka": "ok"})
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not_ready",
        "checks": {"database": "away", "kafka": "ok"},
    }


def test_liveness_does_not_depend_on_readiness(serve: Serve) -> None:
    answer = httpx.get(f"{serve(readiness=lambda: {'database': 'away'})}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_stuck_daemon_fails_liveness(serve: Serve) -> None:
    answer = httpx.get(f"{serve(alive=lambda: False)}/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "stuck"})


def test_metrics_come_as_prometheus_text(serve: Serve) -> None:
    url = serve(metrics=lambda: b"up 1\n")
    answer = httpx.get(f"{url}/metrics")
    assert answer.content == b"up 1\n"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/healthz/", "/ready", "/%68ealthz"])
def test_other_paths_are_404(path: str, serve: Serve) -> None:
    assert httpx.get(serve() + path).status_code == 404


def test_query_of_a_probe_does_not_matter(serve: Serve) -> None:
    assert httpx.get(f"{serve()}/healthz?from=kubelet").status_code == 200


def exchange(url: str, request: bytes) -> bytes:
    """Everything the server sends back, byte for byte."""
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing"])
def test_head_answers_as_get_without_the_body(path: str, serve: Serve) -> None:
    url = serve(metrics=lambda: b"up 1\n")
    got = httpx.get(url + path)
    head, _, body = exchange(url, f"HEAD {path} HTTP/1.0\r\n\r\n".encode()).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.0 {got.status_code} ".encode())
    assert f"Content-Length: {len(got.content)}".encode() in head.splitlines()
    assert body == b""


def test_nothing_of_it_may_be_cached(serve: Serve) -> None:
    assert httpx.get(f"{serve()}/readyz").headers["Cache-Control"] == "no-store"


def test_probe_with_a_defect_answers_500_and_the_others_go_on(serve: Serve) -> None:
    def broken() -> Mapping[str, str]:
        raise LookupError("password=hunter2")

    url = serve(readiness=broken)
    answer = httpx.get(f"{url}/readyz")
    assert (answer.status_code, answer.json()) == (
        500,
        {"status": "failed", "error": "LookupError"},
    )
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_liveness_answers_while_another_probe_hangs(serve: Serve) -> None:
    asked, release = threading.Event(), threading.Event()

    def slow() -> bytes:
        asked.set()
        release.wait(10)
        return b"late"

    url = serve(metrics=slow)
    found: list[bytes] = []
    scrape = threading.Thread(target=lambda: found.append(httpx.get(f"{url}/metrics").content))
    scrape.start()
    try:
        assert asked.wait(5)
        assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
        assert found == []
    finally:
        release.set()
        scrape.join()
    assert found == [b"late"]


def test_prober_that_hangs_up_leaves_no_trace(
    serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    url = httpx.URL(serve(metrics=lambda: b"x" * 5_000_000))
    with socket.create_connection(("127.0.0.1", url.port or 0)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(10)
    wait_until(lambda: not requests_under_way(), 10, "end of the request that was left")
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def requests_under_way() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if "process_request" in name]


def test_it_listens_on_ipv6(serve: Serve) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback address")
    assert httpx.get(f"{serve(host='::1')}/healthz").status_code == 200


def test_taken_address_is_an_error(serve: Serve) -> None:
    port = httpx.URL(serve()).port or 0
    with pytest.raises(OSError, match="in use"):
        AdminServer(Address("127.0.0.1", port), Probes(readiness=ready, metrics=no_metrics))


def test_closed_port_is_free_again() -> None:
    probes = Probes(readiness=ready, metrics=no_metrics)
    first = AdminServer(Address("127.0.0.1", 0), probes)
    first.close()
    second = AdminServer(Address("127.0.0.1", first.port), probes)
    second.close()
    assert second.port == first.port
