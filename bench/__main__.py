"""`python -m bench`: measure, write one result file, print the table. Only ever on loopback."""

import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.agreement import DisagreementError
from bench.capacity import GeneratorError, wrk_program
from bench.contestants import PEERS_PYTHON, Distance
from bench.machine import commit, machine, output_of, package_versions
from bench.open_load import k6_program
from bench.progress import Progress
from bench.result import Result, Sample
from bench.run import Run
from bench.seed import make_template
from bench.session import run_session
from bench.settings import Settings, parse_settings
from bench.table import table
from deploy.local.child import StartError
from deploy.local.ports import free_port
from deploy.local.postgres import DURABLE, Postgres, place, spare_directory
from deploy.local.valkey import Valkey

# Durable; checkpoints are made between samples and not in the midst of one.
SERVER: Mapping[str, str] = {
    **DURABLE,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_connections": "400",
    "max_wal_size": "8GB",
    # Segments of the log are used again, as on a server that has been up for a while: filling new
    # ones with zeros stops every commit for tens of milliseconds.
    "min_wal_size": "4GB",
    "checkpoint_timeout": "30min",
}


def main() -> int:
    settings = parse_settings(sys.argv[1:])
    return run_session(
        partial(measure, settings),
        table=table,
        results=settings.results,
        failures=(StartError, GeneratorError, DisagreementError, psycopg.Error, OSError),
    )


def measure(settings: Settings, folder: Path, progress: Progress) -> Result:
    """Start everything, take the samples, stop everything."""
    wrk_program()  # before anything is started that takes a while
    now, found_machine, (revision, dirty) = datetime.now(UTC), machine(), commit()
    placement = place(folder / "postgres", spare_directory())
    server = Postgres(
        placement=placement,
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=folder / "postgres.log",
        settings=SERVER,
    )
    ids = folder / "ids"
    valkey = _valkey(folder) if any(each.redis for each in settings.variants) else None
    distance = None
    if settings.distance_milliseconds:
        distance = Distance(server.port, settings.distance_milliseconds, folder)
    samples: list[Sample] = []
    try:
        progress.say("starting PostgreSQL and seeding it")
        server.start()
        server.wait_ready()
        if valkey is not None:
            valkey.start()
            valkey.wait_ready()
        if distance is not None:
            distance.start()
        make_template(server, settings.tickets, ids, settings.description)
        run = Run(
            settings=settings,
            server=server,
            programs=placement.programs,
            folder=folder,
            ids=ids,
            say=progress.say,
            valkey=valkey,
            distance=distance,
        )
        try:
            run.start()
            samples.extend(run.samples())
        finally:
            run.stop()
        versions = _versions(server)
    finally:
        for each in (distance, valkey):
            if each is not None:
                each.stop()
        server.stop()
        shutil.rmtree(server.data, ignore_errors=True)
    return Result(
        label=settings.label,
        kind="trial" if settings.is_trial or dirty else "run",
        date=now,
        commit=revision,
        dirty=dirty,
        machine=found_machine,
        versions=versions,
        settings=_described(settings),
        contestants=[
            dict(each.service.description) if each.service else {"name": each.name}
            for each in run.entrants
        ],
        left_out=run.left_out,
        samples=samples,
    )


def _valkey(folder: Path) -> Valkey:
    return Valkey(
        directory=folder / "valkey",
        port=free_port(),
        password=secrets.token_urlsafe(12),
        log=folder / "valkey.log",
    )


def _described(settings: Settings) -> dict[str, Any]:
    """Without what is told elsewhere in the result."""
    found = asdict(settings) | {"postgresql": dict(SERVER)}
    for name in ("variants", "results", "label", "is_trial"):
        del found[name]
    return found


def _versions(server: Postgres) -> dict[str, str]:
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    found = package_versions() | {"postgresql": str(row[0]) if row else ""}
    programs = {"wrk": ["wrk", "--version"], "go": ["go", "version"]}
    if k6 := k6_program():
        programs["k6"] = [k6, "version"]
    if PEERS_PYTHON.exists():
        listing = "import importlib.metadata as m;print(*(f'{p} {m.version(p)}' for p in "
        listing += "('fastapi','sqlalchemy','asyncpg','uvicorn','pydantic')),sep=', ')"
        programs["fastapi"] = [str(PEERS_PYTHON), "-c", listing]
    for name, command in programs.items():
        if said := output_of(command):
            found[name] = said.splitlines()[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
