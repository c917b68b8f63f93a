"""Studies: patches that fit the commit they name, so that their figures can be produced again."""

import subprocess
from pathlib import Path

import pytest

from bench.variants import STUDIES, LeftOutError, Variant, base_of, source
from tests.support.processes import PROJECT

NAMES = sorted(path.name for path in STUDIES.glob("*.patch"))


def has_commit(commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_study_fits_the_commit_it_names(name: str, tmp_path: Path) -> None:
    commit = base_of(name)
    if not has_commit(commit):
        pytest.skip(f"this clone has no commit {commit}; fetch the whole history to run the study")
    tree = source(Variant(name="study", commit=commit, patch=name), tmp_path)
    assert (tree / "ticketd" / "worker.py").exists()


def test_missing_study_is_named() -> None:
    with pytest.raises(LeftOutError, match=r"no none\.patch with a line `Base: COMMIT`"):
        base_of("none.patch")
