"""Fills the table of fault scenarios in docs/delivery.md from what `make test-faults` has kept."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from bench.charts import number_text
from bench.result import RESULTS, ResultError

FAULTS = RESULTS / "faults"
BLOCK = re.compile(r"<!-- scenarios -->\n.*?<!-- end -->", re.DOTALL)
HEADER = (
    "| | scenario | accepted | lost | out of order | dead | repeated in the database "
    "| repeated in the topic | at the receiver | figures |\n"
    "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)
NOTHING_YET = "There are no figures yet: `make test-faults`."


def read_scenarios(folder: Path) -> list[dict[str, Any]]:
    """In order of their numbers. Raises ResultError."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = orjson.loads(path.read_bytes())
            found.append({key: content[key] for key in (*KEYS, "figures", "verdict", "machine")})
        except (orjson.JSONDecodeError, KeyError) as error:
            raise ResultError(f"{path.name} is no figures of a fault scenario: {error}") from error
    return found


KEYS = ("number", "title", "date", "commit", "has_changes", "full_length")


def fill_scenarios(page: str, scenarios: Sequence[dict[str, Any]]) -> str:
    """The page with its table; what was between the marks before is replaced."""
    table = "\n".join([HEADER, *map(_row, scenarios)]) + "\n\n" + _facts(scenarios)
    block = table if scenarios else NOTHING_YET
    return BLOCK.sub(lambda _: f"<!-- scenarios -->\n\n{block}\n\n<!-- end -->", page)


def _row(scenario: dict[str, Any]) -> str:
    shortened = "" if scenario["full_length"] else " (shortened)"
    cells = [str(scenario["number"]), scenario["title"] + shortened, *_counts(scenario["verdict"])]
    figures = [f"{name}: {_text(value)}" for name, value in scenario["figures"].items()]
    return f"| {' | '.join([*cells, '; '.join(figures)])} |"


def _counts(verdict: dict[str, Any] | None) -> list[str]:
    if verdict is None:
        return [""] * 7
    topic, receiver = verdict["topic"], verdict["receiver"]
    counts = [
        verdict["accepted"],
        topic["lost"] + receiver["lost"],
        topic["out_of_order"] + receiver["out_of_order"],
        verdict["dead"],
        # Before the queue was watched there was nothing to count it by.
        verdict["repeated_in_database"] if "unfinished" in verdict else None,
        topic["repeated"],
        receiver["repeated"],
    ]
    return ["" if count is None else number_text(count) for count in counts]


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else number_text(value)


def _facts(scenarios: Sequence[dict[str, Any]]) -> str:
    commits = sorted({
        each["commit"][:9] + (" with changes" if each["has_changes"] else "") for each in scenarios
    })  # fmt: skip
    days = sorted({each["date"][:10] for each in scenarios})
    machines = sorted({
        f"{each['machine']['cpu']}, {each['machine']['cores']} cores" for each in scenarios
    })  # fmt: skip
    return f"Measured on {', '.join(days)} at {', '.join(commits)}; {'; '.join(machines)}."
