"""One fault scenario: how long it runs, and the figures it leaves for docs/delivery.md.

`make test` runs every scenario shortened; `make test-faults` at full length, and keeps a file each.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import orjson

from bench.machine import commit, machine, package_versions
from tests.support.checker import Verdict

PACKAGES = ("confluent-kafka", "psycopg", "uvloop", "aiohttp")

Length = TypeVar("Length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`keep` is where figures are written, None to write none. `test` is the test's name, which is
    the name of its file."""

    test: str
    is_full: bool
    keep: Path | None

    def pick(self, *, short: Length, full: Length) -> Length:
        return full if self.is_full else short

    def conclude(
        self,
        number: int,
        title: str,
        verdict: Verdict | None,
        figures: Mapping[str, int | float | str] | None = None,
    ) -> None:
        """Print the figures and keep them, then fail if a promise was broken.

        `number` is the scenario's in docs/delivery.md; `figures` by a name that tells the unit.
        """
        told = ", ".join(f"{name} {value}" for name, value in (figures or {}).items())
        print(f"scenario {number}, {title}: {told}; {verdict or ''}")
        if self.keep is not None:
            self._write(number, title, verdict, dict(figures or {}))
        assert verdict is None or verdict.broken_promises == {}, str(verdict)

    def _write(
        self,
        number: int,
        title: str,
        verdict: Verdict | None,
        figures: dict[str, int | float | str],
    ) -> None:
        assert self.keep is not None
        revision, has_changes = commit()
        content = {
            "number": number,
            "title": title,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": revision,
            "has_changes": has_changes,
            "full_length": self.is_full,
            "machine": machine(),
            "versions": package_versions(PACKAGES),
            "verdict": asdict(verdict) if verdict else None,
            "figures": figures,
        }
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / f"{number:02}-{self.test}.json"
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
