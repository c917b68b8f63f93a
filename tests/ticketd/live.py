"""One ticketd process for the many requests of a module, and what a problem looks like."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from deploy.local.postgres import Postgres
from tests.conftest import TEMPLATE
from tests.support.processes import Daemon
from tests.support.raw_http import Answer, exchange, request_bytes

JSON: list[tuple[str, str | bytes]] = [("Content-Type", "application/json")]


@contextmanager
def live_server(postgres: Postgres, directory: Path) -> Iterator[Daemon]:
    """A ticketd on a database of its own; at its end, its log has no traceback."""
    name = f"t{secrets.token_hex(6)}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}".encode())
    environment = {"DATABASE_URL": postgres.url(name)}
    with Daemon("ticketd", environment, directory=directory) as daemon:
        yield daemon.wait_ready()
        assert daemon.events("request_failed") == []
        assert "Traceback" not in daemon.text()


def create(server: Daemon, body: bytes) -> Answer:
    return exchange(server.url, request_bytes("POST", "/tickets", JSON, body))


def new_ticket(server: Daemon) -> str:
    """The path of a new ticket, which is at version 1."""
    body = '{"title": "Принтер", "requester": "анна"}'.encode()
    return create(server, body).headers["location"]


def assert_problem(answer: Answer, status: int, code: str, *fields: tuple[str, str]) -> None:
    """A problem with this status and code, and exactly these (field, code) in `errors`."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    errors = problem.get("errors", [])
    assert {(error["field"], error["code"]) for error in errors} == set(fields)
    assert all(error["message"] for error in errors)
