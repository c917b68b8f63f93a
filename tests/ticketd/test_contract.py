"""The contract: schemathesis finds no request that the server answers otherwise than it says."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from servicedesk.logs import Log
from tests.conftest import StartDaemon
from tests.support.processes import PROJECT, Daemon, wait_until
from tests.support.storage import Storage
from tests.ticketd.application import NEW
from ticketd.answers import ANSWERS, INTERNAL_ERROR
from ticketd.app import CONTRACT, build_app
from ticketd.config import Config

TOKEN = "a-token-for-the-contract"
CASES_AN_OPERATION = 20
# Of what Redis adds to answers that are checked without it already.
CASES_WITH_REDIS = 5
OPERATIONS = 14
OF_ATTACHMENTS = 5
ANSWER_CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# The tests that run schemathesis take long on a busy machine.
pytestmark = pytest.mark.timeout(300)
HITS = 'ticketd_cache_reads_total{outcome="hit"}'


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path = tmp_path / "tokens"
    path.write_text(f"contract {digest} tickets:read,tickets:write\n")
    return path


@pytest.fixture(params=["memory", "postgres and S3", "postgres and Redis"])
def environment(request: pytest.FixtureRequest, tokens_file: Path) -> dict[str, str]:
    """The least that ticketd can run on, and all that it can use. With Redis there is a quota that
    nobody uses up."""
    found = {"TICKETD_TOKENS_FILE": str(tokens_file)}
    if request.param == "memory":
        return found
    url: str = request.getfixturevalue("database_url")
    if request.param == "postgres and Redis":
        redis_url: str = request.getfixturevalue("valkey_url")
        return found | with_redis(url, redis_url, "1000000/1h")
    storage: Storage = request.getfixturevalue("storage")
    return found | {"DATABASE_URL": url} | storage.settings


def with_redis(database_url: str, redis_url: str, quota: str) -> dict[str, str]:
    """The settings of all that Redis is for."""
    found = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TICKETD_QUOTA": quota}
    # So long that a busy machine is not taken for a slow Redis.
    found |= {"TICKETD_REDIS_TIMEOUT": "5s", "TICKETD_REQUEST_TIMEOUT": "30s"}
    return found | {"TICKETD_CACHE": "true"}


def run_schemathesis(url: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """With all checks; the same cases at every run."""
    command: list[str | Path] = [Path(sys.executable).with_name("schemathesis")]
    command += ["--config-file", PROJECT / "tests/ticketd/schemathesis.toml"]
    command += ["run", CONTRACT, "--url", url, "--header", f"Authorization: Bearer {TOKEN}"]
    command += ["--checks", "all", "--no-color"]
    command += ["--generation-deterministic", "--continue-on-failure", "--request-timeout", "10"]
    command += options
    environment = {
        "PATH": os.defpath,
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(PROJECT),
        "SCHEMATHESIS_HOOKS": "tests.ticketd.schemathesis_hooks",
    }
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_server_answers_as_the_contract_says(
    start_daemon: StartDaemon, environment: dict[str, str], tmp_path: Path
) -> None:
    daemon = start_daemon("ticketd", environment).wait_ready()
    cases = CASES_WITH_REDIS if "REDIS_URL" in environment else CASES_AN_OPERATION
    operations, options = OPERATIONS, ["--max-examples", str(cases)]
    if "REDIS_URL" in environment:
        # The other phases are slow, and what they send is refused before Redis matters.
        options += ["--phases", "fuzzing,stateful"]
    if "S3_BUCKET" not in environment:
        # Each of them answers 501 there, which schemathesis takes for a defect.
        operations -= OF_ATTACHMENTS
        options += ["--exclude-path-regex", "attachments"]
    result = run_schemathesis(daemon.url, tmp_path, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Tested: {operations}\n" in result.stdout
    assert daemon.events("request_failed") == []
    assert "Traceback" not in daemon.text()


class Checked:
    """A daemon, and calls of it whose answers are held to the contract."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._schema = schemathesis.openapi.from_path(CONTRACT)

    def call(self, method: str, path: str, **parts: Any) -> schemathesis.Response:
        """`parts` are those of a schemathesis Case, such as `body` and `headers`."""
        headers = {"Authorization": f"Bearer {TOKEN}"} | parts.pop("headers", {})
        case = self._schema[path][method].Case(headers=headers, **parts)
        answer = case.call(base_url=self.daemon.url, timeout=30)
        case.validate_response(answer, checks=ANSWER_CHECKS)
        return answer

    def create(self) -> schemathesis.Response:
        """With one and the same key."""
        headers = {"Idempotency-Key": '"again"'}
        return self.call(
            "POST", "/tickets", body=NEW, headers=headers, media_type="application/json"
        )

    def count(self, metric: str) -> float:
        found = re.findall(rf"^{re.escape(metric)} (\S+)$", self.daemon.metrics(), re.MULTILINE)
        return sum(map(float, found))


def test_answers_that_come_out_of_redis_are_as_the_contract_says(
    start_daemon: StartDaemon, database_url: str, valkey_url: str
) -> None:
    environment = with_redis(database_url, valkey_url, "1000000/1h")
    api = Checked(start_daemon("ticketd", environment).wait_ready())
    wait_until(lambda: api.count("ticketd_redis_up") == 1, 20, "connection to Redis")
    created = api.create()

    def replays() -> bool:
        answer = api.create()
        assert answer.headers["idempotency-replayed"] == ["true"]
        assert answer.content == created.content
        return api.count("ticketd_idempotent_replays_total") > 0

    wait_until(replays, 20, "replay from Redis")
    path = {"id": created.json()["id"]}

    def hits(status: int, **headers: str) -> bool:
        before = api.count(HITS)
        answer = api.call("GET", "/tickets/{id}", path_parameters=path, headers=headers)
        assert answer.status_code == status
        assert answer.headers["ratelimit-policy"] == ['"default";q=1000000;w=3600']
        return api.count(HITS) > before

    wait_until(lambda: hits(200), 20, "hit of the cache")
    wait_until(lambda: hits(304, **{"If-None-Match": '"1"'}), 20, "hit of the cache")


def test_refusal_by_a_quota_is_as_the_contract_says(
    start_daemon: StartDaemon, database_url: str, valkey_url: str
) -> None:
    environment = with_redis(database_url, valkey_url, "3/1h")
    api = Checked(start_daemon("ticketd", environment).wait_ready())
    wait_until(lambda: api.count("ticketd_redis_up") == 1, 20, "connection to Redis")
    path = {"id": api.create().json()["id"]}
    assert api.call("GET", "/tickets").status_code == 200
    assert api.call("GET", "/tickets/{id}", path_parameters=path).status_code == 200
    refused = [
        api.create(),
        api.call("GET", "/tickets"),
        api.call("GET", "/tickets/{id}", path_parameters=path),
        api.call("POST", "/tickets/{id}/close", path_parameters=path),
    ]
    assert [answer.status_code for answer in refused] == [429] * 4


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    content: dict[str, Any] = schemathesis.openapi.from_path(CONTRACT).raw_schema
    return content


def test_server_gives_out_the_very_contract(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("ticketd", {}).wait_ready()
    answer = httpx.get(f"{daemon.url}/openapi.yaml")
    assert answer.headers["content-type"] == "application/yaml"
    assert answer.content == CONTRACT.read_bytes()


def test_contract_has_every_route_and_no_other(contract: dict[str, Any]) -> None:
    app = build_app(Config.from_environment({}), Log("ticketd"), in_tasks=True)
    routes = {
        (path, method.lower())
        for path, resource in app.pipeline._router._resources.items()
        for method in resource.routes
        # Answered wherever GET is, and the contract says so once.
        if method != "HEAD"
    }
    documented = {
        (path, name)
        for path, item in contract["paths"].items()
        for name in item
        if name != "parameters"
    }
    assert routes == documented
    assert len(documented) == OPERATIONS


def test_contract_has_every_problem_with_its_status(contract: dict[str, Any]) -> None:
    documented = set()
    for response in contract["components"]["responses"].values():
        _, narrowed = response["content"]["application/problem+json"]["schema"]["allOf"]
        code, status = narrowed["properties"]["code"], narrowed["properties"]["status"]["const"]
        documented |= {(status, name) for name in code.get("enum", [code.get("const")])}
    assert documented == {(a.status, a.code) for a in (*ANSWERS.values(), INTERNAL_ERROR)}


def test_every_problem_of_the_contract_has_an_example(contract: dict[str, Any]) -> None:
    shown = {
        example["value"]["code"]
        for response in contract["components"]["responses"].values()
        for example in response["content"]["application/problem+json"]["examples"].values()
    }
    assert shown == {answer.code for answer in (*ANSWERS.values(), INTERNAL_ERROR)}
