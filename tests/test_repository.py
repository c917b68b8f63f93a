"""The repository keeps its own rules: small modules that say their job, a short Makefile, exact
pins, and nothing of the machine it was written on."""

import ast
import re
import shutil
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.support.processes import PROJECT
from tests.support.queries import PACKAGES

MODULE_LINES = 300
# A test file is a list of cases, read case by case; past this it hides some of them.
TEST_LINES = 450
MAKE_TARGETS = 18
DOCSTRING_LINES = 6
# Modules that are longer, each with the reason.
LONGER: dict[str, str] = {}
# Joined here, so that this file passes its own check.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("repo", "maven", "apache", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
    )
]
MACHINE_PATHS = [f"/{name}/" for name in ("work", "root")]
WORKFLOW = PROJECT / ".github/workflows/ci.yml"


def tracked_files() -> list[Path]:
    command = ["git", "-C", str(PROJECT), "ls-files", "-z"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip(f"not a git checkout: {result.stderr.strip()}")
    files = [PROJECT / name for name in result.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def python_modules() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py" and path.stat().st_size]


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_every_module_opens_with_its_job_in_one_to_six_lines() -> None:
    wrong = []
    for path in python_modules():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        # A table of decisions may follow; it is data, not prose.
        prose = [line for line in docstring.splitlines() if not line.startswith("|")]
        if not 1 <= len(prose) <= DOCSTRING_LINES:
            wrong.append(name_of(path))
    assert wrong == []


def test_no_module_is_long_without_a_reason() -> None:
    long = {}
    for path in python_modules():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = TEST_LINES if path.is_relative_to(PROJECT / "tests") else MODULE_LINES
        if lines > limit:
            long[name_of(path)] = lines
    assert set(long) == set(LONGER), f"split by noun, or say why in LONGER: {long}"


def test_every_make_target_has_help_and_they_are_few() -> None:
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):(?!=)(.*)$", text, re.MULTILINE)
    assert [name for name, rest in targets if " ## " not in rest] == []
    assert sorted(name for name, _ in targets) == sorted(re.findall(r"^\.PHONY: (.+)$", text, re.M))
    assert len(targets) <= MAKE_TARGETS


def test_help_lists_every_target() -> None:
    result = subprocess.run(
        ["make", "-C", str(PROJECT), "--no-print-directory", "help"],
        capture_output=True,
        text=True,
        check=True,
    )
    shown = [line.split()[0] for line in result.stdout.splitlines()]
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    assert shown == re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)


def test_makefile_works_in_any_directory(tmp_path: Path) -> None:
    clone = tmp_path / "Анна's clone"
    shutil.copytree(PROJECT / "requirements", clone / "requirements")
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(PROJECT / name, clone)
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE)
    commands = subprocess.run(
        ["make", "-C", str(clone), "--no-print-directory", "--dry-run", *targets],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "spectral lint" in commands.stdout
    # Only relative paths: the shell would read a quote or a space of the directory's name.
    assert clone.name not in commands.stdout


def test_no_registry_host_and_no_path_of_a_machine_is_tracked() -> None:
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="replace")
        found += [f"{name_of(path)}: {host}" for host in REGISTRY_HOSTS if host in text]
        found += [f"{name_of(path)}: {place}" for place in MACHINE_PATHS if place in text]
    assert found == []


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_everything_installed_is_pinned_with_hashes(name: str) -> None:
    text = (PROJECT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [
        line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    wrong = [
        line[:60] for line in lines if not re.match(r"[\w.\[\],-]+==\S+ .*--hash=sha256:", line)
    ]
    assert wrong == []
    assert len(lines) > 10


def test_runtime_is_pinned_to_what_the_tests_ran_with() -> None:
    pins = {}
    for name in ("runtime.txt", "dev.txt"):
        text = (PROJECT / "requirements" / name).read_text(encoding="utf-8")
        pins[name] = set(re.findall(r"^([\w.\[\],-]+==\S+)", text, re.MULTILINE))
    assert pins["runtime.txt"] <= pins["dev.txt"]


def test_pyproject_holds_nothing_but_the_build_system() -> None:
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert list(content) == ["build-system"]


def test_every_package_is_installed_and_type_checked() -> None:
    settings = ConfigParser()
    settings.read(PROJECT / "setup.cfg", encoding="utf-8")
    installed = settings["options"]["packages"].split()
    found = {
        name_of(path.parent).replace("/", ".")
        for path in python_modules()
        if path.relative_to(PROJECT).parts[0] in PACKAGES
    }
    assert set(installed) == found
    assert {name.partition(".")[0] for name in installed} <= set(
        settings["mypy"]["files"].replace(" ", "").split(",")
    )


def test_workflow_pins_its_actions_and_runs_what_people_run() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (\S+)", text)
    assert uses
    assert [action for action in uses if not re.search(r"@v\d+\.\d+\.\d+$", action)] == []
    assert "run: .ci/run" in text
    assert re.findall(r"https?://\S+", text) == []
    assert "python: ['3.11', '3.13']" in text
