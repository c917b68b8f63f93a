"""The table of fault scenarios is drawn from kept figures, and from nothing else."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.delivery import fill_scenarios, read_scenarios
from bench.machine import PROJECT
from bench.result import ResultError

PAGE = "before\n<!-- scenarios -->\nold\n<!-- end -->\nafter"


def figures(**changes: Any) -> dict[str, Any]:
    place = {"arrived": 50_000, "lost": 0, "repeated": 0, "out_of_order": 0}
    return {
        "number": 3,
        "title": "relayd stopped past its lease",
        "date": "2026-11-25T02:06:09+00:00",
        "commit": "9e75255516a03040873ad2d926cc1fc9973bf880",
        "has_changes": False,
        "full_length": True,
        "machine": {"cpu": "a processor", "cores": 2},
        "verdict": {
            "accepted": 50_000,
            "topic": place | {"lost": 1, "repeated": 40},
            "receiver": place | {"lost": 2, "out_of_order": 5},
            "repeated_in_database": 0,
            "unfinished": 0,
            "dead": 0,
        },
        "figures": {"kills": 25, "recovery s": 1.5},
        **changes,
    }


def test_row_has_the_counts_of_both_places() -> None:
    page = fill_scenarios(PAGE, [figures()])
    assert (
        "| 3 | relayd stopped past its lease | 50,000 | 3 | 5 | 0 | 0 | 40 | 0 | kills: 25; "
        "recovery s: 1.5 |"
    ) in page
    assert "Measured on 2026-11-25 at 9e7525551; a processor, 2 cores." in page
    assert page.startswith("before\n")
    assert page.endswith("\nafter")
    assert "old" not in page


def test_what_was_not_looked_at_is_left_open() -> None:
    for verdict in (figures()["verdict"] | {"repeated_in_database": None}, figures()["verdict"]):
        if verdict["repeated_in_database"] is not None:
            del verdict["unfinished"]  # as in files from before the queue was watched
        page = fill_scenarios(PAGE, [figures(verdict=verdict)])
        assert "lease | 50,000 | 3 | 5 | 0 |  | 40 | 0 |" in page


def test_shortened_run_and_changed_tree_are_said() -> None:
    page = fill_scenarios(PAGE, [figures(full_length=False, has_changes=True, verdict=None)])
    assert "relayd stopped past its lease (shortened)" in page
    assert "at 9e7525551 with changes" in page


def test_without_figures_the_page_says_so() -> None:
    assert "There are no figures yet" in fill_scenarios(PAGE, [])


def test_scenarios_are_read_in_order_and_a_strange_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "10-b.json").write_bytes(orjson.dumps(figures(number=10)))
    (tmp_path / "02-a.json").write_bytes(orjson.dumps(figures(number=2)))
    assert [each["number"] for each in read_scenarios(tmp_path)] == [2, 10]
    (tmp_path / "11-c.json").write_text("{}")
    with pytest.raises(ResultError, match=r"11-c\.json is no figures of a fault scenario"):
        read_scenarios(tmp_path)


def test_page_of_the_project_has_the_place_for_the_table() -> None:
    page = (PROJECT / "docs" / "delivery.md").read_text(encoding="utf-8")
    assert fill_scenarios(page, [figures()]) != page
