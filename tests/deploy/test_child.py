"""Children end with their parent and with their leader, whatever ends those."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.child import Child, NotReadyError, Program, StartError, ending
from tests.support.processes import PROJECT, wait_until

PARENT = """
import sys, time
from pathlib import Path
from deploy.local.child import Child, Program
log = Path(sys.argv[1])
child = Child(Program(name="sleep", command=["sleep", "600"], environment={}, log=log))
print(child.pid, flush=True)
time.sleep(600)
"""


def program(log: Path, *command: str) -> Program:
    return Program(name="it", command=command, environment={"PATH": os.defpath}, log=log)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of a killed parent")
def test_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")], cwd=PROJECT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: child.name() == "sleep", 5, "sleep in the child")
        parent.kill()
        psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


def test_processes_that_the_leader_left_behind_are_ended_with_it(tmp_path: Path) -> None:
    child = Child(program(tmp_path / "log", "sh", "-c", "sleep 600 & echo $!; wait"))
    leftover = psutil.Process(int(wait_until(child.last_words, 5, "pid of the grandchild")))
    child.send(signal.SIGKILL)
    wait_until(lambda: child.exit_code() == -signal.SIGKILL, 5, "end of the leader")
    psutil.wait_procs([leftover], timeout=5)
    assert not leftover.is_running() or leftover.status() == psutil.STATUS_ZOMBIE


def test_child_that_ignores_the_stop_is_killed(tmp_path: Path) -> None:
    child = Child(program(tmp_path / "log", "sh", "-c", "trap '' TERM; echo on; sleep 600"))
    wait_until(child.last_words, 5, "trap")
    assert child.stop(signal.SIGTERM, 0.2) is None
    assert child.exit_code() == -signal.SIGKILL


def test_program_that_ends_by_itself_is_waited_for(tmp_path: Path) -> None:
    """Its end is no failed start, however shortly after a look it comes."""
    assert Child(program(tmp_path / "log", "true")).finish(5) == 0
    assert Child(program(tmp_path / "log", "sh", "-c", "exit 3")).finish(5) == 3


def test_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    child = Child(program(tmp_path / "log", "sh", "-c", "echo thinking; sleep 600"))
    wait_until(child.last_words, 5, "first word")
    with pytest.raises(NotReadyError, match=r"^it does not end after 0.1 s: thinking \(log: "):
        child.finish(0.1)
    assert child.exit_code() == -signal.SIGKILL


def test_failed_start_tells_the_last_words_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("an older complaint\n")
    child = Child(program(log, "sh", "-c", "echo disk is full >&2; exit 3"))
    with pytest.raises(StartError, match=r"^it ended with exit code 3: disk is full \(log: "):
        child.wait_ready(lambda: False, 5)


def test_program_that_is_missing_is_one_line(tmp_path: Path) -> None:
    child = Child(program(tmp_path / "log", "/nowhere/at-all"))
    with pytest.raises(StartError, match="cannot run /nowhere/at-all: No such file or directory"):
        child.wait_ready(lambda: False, 5)


def test_ending_names_the_signal() -> None:
    assert ending(-9) == "was ended by SIGKILL"
    assert ending(2) == "ended with exit code 2"
