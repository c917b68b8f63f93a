"""The micro benchmarks run, once each and without measuring."""

import os
import subprocess
import sys

from tests.support.processes import PROJECT


def test_every_micro_benchmark_runs() -> None:
    command = [sys.executable, "-m", "pytest", "bench/micro", "--benchmark-disable"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "--import-mode=importlib", "-q"]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
