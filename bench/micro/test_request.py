"""A request on its way through ticketd, without a socket and without a store."""

import hashlib
import io
import os
import time
from datetime import UTC, datetime

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from servicedesk.environment import Environment
from servicedesk.logs import Log
from ticketd.config import Config
from ticketd.cursor import Cursors
from ticketd.identifiers import IdentifierSource
from ticketd.representation import ticket_json
from ticketd.tickets import NewTicket, Ticket, open_ticket
from ticketd.validation import LIST_PARAMETERS, parse_new_ticket, parse_parameters

NOW = datetime(2026, 1, 15, 8, 0, tzinfo=UTC)
BODY = (
    '{"title":"Принтер на третьем этаже не печатает","requester":"anna.petrova@example.com",'
    '"description":"Горит красная лампа. Бумага есть, перезагружали дважды","priority":"high"}'
).encode()
QUERY = b"status=in_progress&priority=high&assignee=%D0%98%D0%B3%D0%BE%D1%80%D1%8C&limit=50"


@pytest.fixture(scope="module")
def ticket() -> Ticket:
    new: NewTicket = parse_new_ticket(BODY)
    return open_ticket(new, IdentifierSource(time.time_ns, os.urandom).next(), NOW)


def test_identifier_made(benchmark: BenchmarkFixture) -> None:
    source = IdentifierSource(time.time_ns, os.urandom)
    assert benchmark(source.next).version == 7


def test_body_checked(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_new_ticket, BODY).priority == "high"


def test_query_checked(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse_parameters, QUERY, LIST_PARAMETERS)["limit"] == "50"


def test_ticket_written(benchmark: BenchmarkFixture, ticket: Ticket) -> None:
    assert benchmark(ticket_json, ticket)


def test_cursor_made_and_opened(benchmark: BenchmarkFixture, ticket: Ticket) -> None:
    cursors = Cursors(hashlib.sha256(b"secret").digest())
    parameters = {"status": "new"}
    opened = benchmark(lambda: cursors.open(cursors.make(ticket.id, parameters), parameters))
    assert opened == ticket.id


def test_log_line_written(benchmark: BenchmarkFixture) -> None:
    log = Log("ticketd", stream=io.StringIO(), now=lambda: NOW)
    benchmark(log.info, "ticket_created", request_id="helpdesk-7f3a", status=201, seconds=0.0042)


def test_settings_read(benchmark: BenchmarkFixture) -> None:
    assert benchmark(Config.from_environment, {"HTTP_ADDR": "[::1]:8080"}).http_address.port == 8080


def test_duration_read(benchmark: BenchmarkFixture) -> None:
    environment = Environment({"SHUTDOWN_TIMEOUT": "1.5s"})
    assert benchmark(environment.seconds, "SHUTDOWN_TIMEOUT", 10.0) == 1.5
