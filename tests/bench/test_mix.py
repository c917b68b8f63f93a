"""The mixed load with attachments, run on real servers."""

import subprocess
from pathlib import Path

import httpx
import orjson
import pytest

from bench.open_load import MISSING, SCENARIOS, k6_program
from tests.conftest import StartDaemon
from tests.support.storage import Storage
from tests.ticketd.application import NEW


def test_mix_attaches_files_where_there_is_a_store(
    start_daemon: StartDaemon, database_url: str, storage: Storage, tmp_path: Path
) -> None:
    program = k6_program()
    if program is None:
        pytest.skip(MISSING)
    daemon = start_daemon("ticketd", storage.settings | {"DATABASE_URL": database_url})
    url = daemon.wait_ready().url
    ids = tmp_path / "ids"
    tickets = [httpx.post(f"{url}/tickets", json=NEW).json()["id"] for _ in range(10)]
    ids.write_text("\n".join(tickets))
    values = {"BASE_URL": url, "IDS": ids, "OUTPUT": tmp_path / "figures", "RATE": 10}
    values |= {"SECONDS": 3, "CONNECTIONS": 10, "ATTACHMENTS": 50, "P99_MS": 5000}
    command = [program, "run", "--quiet", "--no-usage-report"]
    for name, value in values.items():
        command += ["-e", f"{name}={value}"]
    subprocess.run([*command, SCENARIOS / "mix.js"], timeout=60, check=False, capture_output=True)
    figures = orjson.loads((tmp_path / "figures").read_bytes())
    assert figures["errors"] == {"503": 0, "failed": 0}
    attached = [httpx.get(f"{url}/tickets/{ticket}/attachments").json() for ticket in tickets]
    stored = sum(len(found["items"]) for found in attached)
    assert stored == len(storage.keys()) > 0
