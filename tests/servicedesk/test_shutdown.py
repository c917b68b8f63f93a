"""Stopping: the first SIGTERM or SIGINT ends the main coroutine, whose result is the exit code."""

import signal
import subprocess
import sys

import pytest

from tests.support.processes import PROJECT

PROGRAM = """
import asyncio, sys
from servicedesk.shutdown import run, stop_event

async def main() -> int:
    stop = stop_event()
    print(type(asyncio.get_running_loop()).__module__, flush=True)
    await stop.wait()
    print("stopping", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return 7

sys.exit(run(main()))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_the_daemon_finish_and_a_second_one_does_not_cut_it_short(
    number: signal.Signals,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "uvloop\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        process.communicate(timeout=10)
    assert process.returncode == 7
