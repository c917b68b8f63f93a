"""The commit that a result names."""

import subprocess
from pathlib import Path

import pytest

from bench.machine import commit

AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@example.org")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a result and a module, both committed."""
    for name in ("bench/results/one.json", "relayd/relay.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("1")
    for command in (["init", "--quiet"], ["add", "--all"], [*AUTHOR, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_result_that_was_written_anew_is_no_change(project: Path) -> None:
    (project / "bench/results/one.json").write_text("2")
    revision, dirty = commit(project)
    assert (len(revision), dirty) == (40, False)


def test_code_that_was_edited_is_a_change(project: Path) -> None:
    (project / "relayd/relay.py").write_text("2")
    assert commit(project)[1]


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == ("unknown", True)
