"""What daemons tell of an outage: checks of /readyz, samples of /metrics, events of the log."""

import re
import subprocess
import sys

from tests.pipeline.pipeline import Pipeline
from tests.support.processes import PROJECT, Daemon, wait_until

# For what a loop in the background shows, on a machine that is busy with other tests.
SECONDS = 60.0


def wait_check(daemon: Daemon, check: str, begins: str) -> None:
    """Until /readyz says so of this check."""
    wait_until(
        lambda: daemon.checks().get(check, "").startswith(begins),
        SECONDS,
        lambda: f"{check} {begins!r} in {daemon.module}, which says {daemon.checks()}",
    )


def sample(daemon: Daemon, name: str) -> float:
    """Of a metric, with its labels as they are written; 0 while there is none."""
    lines = daemon.metrics().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def wait_sample(daemon: Daemon, name: str, value: float) -> None:
    """Until it is there with this value."""
    wait_until(
        lambda: f"{name} {float(value)}\n" in daemon.metrics(),
        SECONDS,
        lambda: f"{name} {value} in {daemon.module}, where it is {sample(daemon, name)}",
    )


def lags(notifyd: Daemon) -> list[float]:
    """Of each partition that it reads."""
    found = re.findall(r"^notifyd_consumer_lag\{.*\} (\S+)$", notifyd.metrics(), re.MULTILINE)
    return [float(value) for value in found]


def told(daemon: Daemon, begins: str) -> list[str]:
    """The names of its log's events that begin so, in their order."""
    names = [str(event["event"]) for event in daemon.events()]
    return [name for name in names if name.startswith(begins)]


def wait_told(daemon: Daemon, name: str) -> None:
    """Until this event is in its log."""
    wait_until(lambda: daemon.events(name), SECONDS, f"{name} in the log of {daemon.module}")


def redrive(pipeline: Pipeline) -> str:
    """`python -m notifyd redrive --all`: what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "notifyd", "redrive", "--all"],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "DATABASE_URL": pipeline.database_url},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
