"""docs/degraded.md names tests that exist, in every line."""

import re

from tests.support.processes import PROJECT

PAGE = PROJECT / "docs" / "degraded.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py|test_\w+)`")


def test_every_line_names_a_test_that_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    sources = {
        str(path.relative_to(PROJECT)): path.read_text(encoding="utf-8")
        for path in (PROJECT / "tests").rglob("test_*.py")
    }
    known = set(sources) | set(re.findall(r"def (test_\w+)", "\n".join(sources.values())))
    assert len(lines) > 10
    for line in lines:
        named = NAMED.findall(line.rpartition(" | ")[2])
        assert named, f"no test is named: {line[:60]}"
        assert set(named) <= known, set(named) - known
