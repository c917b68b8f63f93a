"""Ports that are chosen for servers which start a little later."""

import os
import subprocess
import sys
from pathlib import Path

CHOOSE = """
from deploy.local import ports
ports.LOWEST, ports.HIGHEST = 20_000, 20_399
print(*(ports.free_port() for _ in range(100)))
"""


def test_two_processes_that_choose_at_once_never_choose_the_same(tmp_path: Path) -> None:
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TMPDIR": str(tmp_path)}
    choosing = [
        subprocess.Popen([sys.executable, "-c", CHOOSE], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    chosen = [port for process in choosing for port in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in choosing] == [0, 0]
    assert len(chosen) == 200
    assert len(set(chosen)) == 200
