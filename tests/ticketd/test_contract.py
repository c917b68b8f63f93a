"""The contract: schemathesis finds no request that the server answers otherwise than it says."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis

from servicedesk.logs import Log
from tests.conftest import StartDaemon
from tests.support.processes import PROJECT
from tests.support.storage import Storage
from ticketd.answers import ANSWERS, INTERNAL_ERROR
from ticketd.app import CONTRACT, build_app
from ticketd.config import Config

TOKEN = "a-token-for-the-contract"
CASES_AN_OPERATION = 20
OPERATIONS = 14
OF_ATTACHMENTS = 5


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path = tmp_path / "tokens"
    path.write_text(f"contract {digest} tickets:read,tickets:write\n")
    return path


@pytest.fixture(params=["memory", "postgres and S3"])
def environment(request: pytest.FixtureRequest, tokens_file: Path) -> dict[str, str]:
    """The least that ticketd can run on, and everything."""
    found = {"TICKETD_TOKENS_FILE": str(tokens_file)}
    if request.param == "memory":
        return found
    storage: Storage = request.getfixturevalue("storage")
    url: str = request.getfixturevalue("database_url")
    return found | {"DATABASE_URL": url} | storage.settings


def run_schemathesis(url: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """With all checks and all phases; the same cases at every run."""
    command: list[str | Path] = [Path(sys.executable).with_name("schemathesis")]
    command += ["--config-file", PROJECT / "tests/ticketd/schemathesis.toml"]
    command += ["run", CONTRACT, "--url", url, "--header", f"Authorization: Bearer {TOKEN}"]
    command += ["--checks", "all", "--max-examples", str(CASES_AN_OPERATION), "--no-color"]
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
        timeout=100,
        check=False,
    )


def test_server_answers_as_the_contract_says(
    start_daemon: StartDaemon, environment: dict[str, str], tmp_path: Path
) -> None:
    daemon = start_daemon("ticketd", environment).wait_ready()
    operations, options = OPERATIONS, []
    if "S3_BUCKET" not in environment:
        # Each of them answers 501 there, which schemathesis takes for a defect.
        operations -= OF_ATTACHMENTS
        options = ["--exclude-path-regex", "attachments"]
    result = run_schemathesis(daemon.url, tmp_path, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Tested: {operations}\n" in result.stdout
    assert daemon.events("request_failed") == []
    assert "Traceback" not in daemon.text()


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
