"""Capacity: wrk, a closed loop that costs little. Its scripts are in bench/wrk/."""

import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.machine import PROJECT
from bench.percentiles import Latency
from bench.result import Figures

SCRIPTS = Path(__file__).with_name("wrk")
TIMEOUT_SECONDS = 10
MISSING = "wrk is not installed (Debian: apt-get install wrk; macOS: brew install wrk)"


class GeneratorError(Exception):
    """A load generator does not run; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An HTTP service under load. `token` is empty where none is asked for; `ids` is a file with
    one ticket id a line; `keyed` puts an Idempotency-Key on every create (wrk only)."""

    url: str
    token: str
    ids: Path
    keyed: bool = False


def wrk_program() -> str:
    """Raises GeneratorError."""
    program = shutil.which("wrk")
    if program is None:
        raise GeneratorError(MISSING)
    return program


class Wrk:
    """Runs wrk; `folder` is for its output. The constructor raises GeneratorError without wrk."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._program = wrk_program()
        self._folder = folder
        self._threads = threads
        self._runs = 0

    def load(self, target: Target, script: str, *, connections: int, seconds: float) -> Figures:
        """Raises GeneratorError. The duration is rounded up to whole seconds, which is what wrk
        takes."""
        self._runs += 1
        output = self._folder / "wrk.json"
        output.unlink(missing_ok=True)
        whole = max(1, round(seconds))
        command = [
            self._program,
            f"-t{min(self._threads, connections)}",
            f"-c{connections}",
            f"-d{whole}s",
            f"--timeout={TIMEOUT_SECONDS}s",
            "-s",
            str(SCRIPTS / f"{script}.lua"),
            target.url,
        ]
        environment = {
            "BENCH_WRK": str(SCRIPTS),
            "BENCH_TOKEN": target.token,
            "BENCH_IDS": str(target.ids),
            "BENCH_KEYED": "1" if target.keyed else "0",
            "BENCH_RUN": str(self._runs),
            "BENCH_OUTPUT": str(output),
        }
        cpu_seconds = run_bounded(command, environment, whole + TIMEOUT_SECONDS + 10)
        return parse_wrk(output.read_bytes(), cpu_seconds)


def run_bounded(
    command: list[str], environment: Mapping[str, str], seconds: float, output: Path | None = None
) -> float:
    """Run a generator to its end; returns the CPU seconds it used. What it says goes to `output`.
    Raises GeneratorError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            cwd=PROJECT,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GeneratorError(f"{command[0]} does not end after {seconds:g} s") from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        raise GeneratorError(f"{command[0]} ended with exit code {done.returncode}: {words}")
    if output is not None:
        output.write_bytes(done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def parse_wrk(output: bytes, cpu_seconds: float) -> Figures:
    """From what `done` in common.lua writes."""
    found = orjson.loads(output)
    kinds = ("connect", "read", "write", "status", "timeout")
    milliseconds = {name: found[name] / 1000 for name in ("p50", "p90", "p99", "p999", "maximum")}
    return Figures(
        generator="wrk",
        seconds=found["microseconds"] / 1e6,
        requests=found["requests"],
        errors={kind: found[kind] for kind in kinds if found[kind]},
        latency=Latency(**milliseconds) if found["requests"] else None,
        generator_cpu_seconds=cpu_seconds,
    )
