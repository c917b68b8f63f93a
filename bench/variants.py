"""Ways to run a daemon, side by side in one run: settings, commits, studies, interpreters."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.machine import PROJECT, python_build

STUDIES = Path(__file__).with_name("studies")


class LeftOutError(Exception):
    """A contestant cannot run here; the text is the note about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to run a daemon: settings on top of what ships, and the commit of its code (empty: this
    tree as it is). `patch` is a study's change to that commit, a file of bench/studies/. `keyed`
    has every create carry an Idempotency-Key, `redis` gives it the run's Redis. `python` is the
    interpreter, which has the same packages."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    patch: str = ""
    keyed: bool = False
    redis: bool = False
    python: str = sys.executable

    def description(self) -> dict[str, Any]:
        """Without `keyed` and `redis`, which only ticketd has."""
        return {
            "name": self.name,
            "environment": dict(self.environment),
            "commit": self.commit,
            "patch": self.patch,
            "python": python_build(self.python),
        }


def source(variant: Variant, folder: Path) -> Path:
    """The tree to run from: this one, or a commit written out beside the logs and patched.

    Raises LeftOutError.
    """
    commit = variant.commit
    if not commit:
        return PROJECT
    tree = folder / f"tree-{variant.name}"
    tree.mkdir()
    # Not a tar: its safe filter came with Python 3.11.4, and Debian 12 has 3.11.2.
    archive = folder / f"{tree.name}.zip"
    _git("archive", "--output", str(archive), commit, reason=f"git has no commit {commit}")
    shutil.unpack_archive(archive, tree)
    archive.unlink()
    if variant.patch:
        reason = f"{variant.patch} does not fit {commit}"
        _git("apply", str(STUDIES / variant.patch), reason=reason, directory=tree)
    return tree


def base_of(patch: str) -> str:
    """The commit that a study's patch is made against, from its line `Base: …`.

    Raises LeftOutError.
    """
    path = STUDIES / patch
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [line.removeprefix("Base: ") for line in lines if line.startswith("Base: ")]
    if not found:
        raise LeftOutError(f"bench/studies/ has no {patch} with a line `Base: COMMIT`")
    return found[0]


def _git(*arguments: str, reason: str, directory: Path = PROJECT) -> None:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LeftOutError(f"{reason}: {done.stderr.strip()}")
