"""The README's commands run as they stand, on a stack of the test's own."""

import re
import subprocess
from pathlib import Path

import orjson

from tests.support.processes import PROJECT, wait_until
from tests.support.stack import StackProcess

README = (PROJECT / "README.md").read_text(encoding="utf-8")
ATTACHMENTS = (PROJECT / "docs/attachments.md").read_text(encoding="utf-8")
API = "127.0.0.1:8080"


def commands_below(heading: str, document: str = README) -> str:
    """The first block of shell commands below a heading."""
    section = document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    match = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert match is not None, f"no commands below {heading!r}"
    return match[1]


def run_shell(script: str, directory: Path | None = None) -> list[str]:
    """The lines of what a script of the README prints; it must not fail."""
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        cwd=directory or PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", README))
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert {"up", "test", "demo", "check", "migrate"} <= named <= targets


def test_six_lines_of_the_api_and_the_mending_commands_work(tmp_path: Path) -> None:
    lines = commands_below("The API in six lines")
    assert len([line for line in lines.splitlines() if "curl" in line]) == 6
    with StackProcess(tmp_path / "local", {}) as stack:
        stack.wait_ready()
        # Each answer on a line of its own: curl prints none after a body.
        script = lines.replace(API, stack.api).replace("\ncurl", "\necho; curl")
        printed = [line for line in run_shell(script) if line]
        read, listed, patched, closed = (orjson.loads(line) for line in printed[:4])
        assert read["title"] == "Принтер не печатает"
        assert read["id"] in [ticket["id"] for ticket in listed["items"]]
        assert (patched["version"], patched["priority"]) == (2, "high")
        assert (closed["version"], closed["status"]) == (3, "closed")
        assert printed[4:] == ["304"]
        wait_until(
            lambda: stack.output().count(read["id"]) >= 3, 20, "three deliveries at the receiver"
        )
        attaching = commands_below("Attach a file", ATTACHMENTS).replace(API, stack.api)
        attached = run_shell(f"ID={read['id']}\n{attaching}", tmp_path)
        assert orjson.loads(attached[0].removesuffix("Тонер заменён"))["name"] == "заметка.txt"
        assert attached[0].endswith("}Тонер заменён")
        mending = commands_below("When something is stuck")
        settings = str(tmp_path / "local" / "stack.env")
        answer = "\n".join(run_shell(mending.replace(".local/stack.env", settings)))
        assert "outbox" in answer or "buckets" in answer
        assert stack.interrupt() == 0
