"""What a run was measured on: the machine, the versions, the commit."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "uvloop",
    "httptools",
    "orjson",
    "psycopg",
    "psycopg-pool",
    "prometheus-client",
    "confluent-kafka",
)


def machine() -> dict[str, Any]:
    """Memory in megabytes; the load is that of the minute before the run."""
    return {
        "cpu": _after_colon(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": _memory_mb(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of those that are installed, and of Python."""
    found = {"python": python_build(sys.executable)}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def python_build(python: str) -> str:
    """Version, build and compiler of an interpreter: one that was built with profiles, as Debian's
    is, is faster than another of the same version. Empty when it does not run."""
    return output_of([python, "-c", "import sys; print(' '.join(sys.version.split()))"]) or ""


def output_of(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    directory: Path = PROJECT,
) -> str | None:
    """What a program says in a few seconds, also when it calls that a failure (wrk --version
    does); None when it is not there or says nothing."""
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=environment,
            cwd=directory,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout or done.stderr).strip() or None


def commit(project: Path = PROJECT) -> tuple[str, bool]:
    """The commit of this tree and whether it has changes; "unknown" outside of a repository.
    Results are no changes: a session writes them one by one."""
    found = output_of(["git", "rev-parse", "HEAD"], directory=project)
    if found is None or len(found) != 40:
        return "unknown", True
    code = [
        "servicedesk", "ticketd", "relayd", "notifyd", "bench", "deploy", "sql", "requirements",
        "setup.cfg", ":(exclude)bench/results",
    ]  # fmt: skip
    changes = output_of(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", *code], directory=project
    )
    return found, changes is not None


def _after_colon(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000
