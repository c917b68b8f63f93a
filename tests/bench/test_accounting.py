"""CPU time and memory from the kernel's accounts, of real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.accounting import Accounts
from tests.support.processes import wait_until

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
# A parent whose child burns and ends, after which both only wait for the end of their input.
WITH_DEAD_CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n"
WAITS = "print('done', flush=True)\nsys.stdin.read()\n"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_DEAD_CHILD + WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    yield process
    process.communicate(b"", timeout=10)


def test_cpu_of_a_child_that_has_ended_is_not_lost(parent: subprocess.Popen[bytes]) -> None:
    assert parent.stdout is not None
    parent.stdout.readline()
    assert 0.25 <= Accounts().cpu_seconds(parent.pid) < 3.0


def test_cpu_of_a_living_child_is_counted() -> None:
    living = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN + WAITS!r}])"
    living = living.replace("import time", "import sys, time")
    with subprocess.Popen(
        [sys.executable, "-c", living], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        accounts = Accounts()
        assert len(list(accounts.tree(process.pid))) == 2
        assert accounts.cpu_seconds(process.pid) >= 0.25
        process.communicate(b"", timeout=10)


def test_cpu_agrees_with_what_the_process_itself_counts() -> None:
    counting = f"{BURN}\nimport sys\nprint(time.process_time(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", counting], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        # The kernel counts in ticks of 10 ms, user and system by themselves; printing costs too.
        assert abs(Accounts().cpu_seconds(process.pid) - own) < 0.1
        process.communicate(b"", timeout=10)


def test_nothing_is_counted_for_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    wait_until(lambda: not list(Accounts().tree(process.pid)), 5, "end of the process")
    assert Accounts().cpu_seconds(process.pid) == 0.0
    assert Accounts().memory(process.pid).rss == 0.0


def test_memory_is_in_megabytes() -> None:
    found = Accounts().memory(os.getpid())
    assert 10 < found.rss < 5000
    assert found.pss is None or 0 < found.pss <= found.rss * 1.1


def test_machine_is_never_busier_than_it_can_be() -> None:
    found = Accounts().machine()
    assert 0 < found.busy <= found.total
