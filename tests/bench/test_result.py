"""The result file."""

from pathlib import Path

import pytest

from bench.result import ResultError, read_result, read_results, write_result
from bench.table import table
from tests.bench.samples import result, sample


def test_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = result(sample(), sample(number=2, offered=500.0))
    found = read_result(write_result(written, tmp_path))
    assert found.samples == list(written.samples)
    assert (found.label, found.date, found.machine) == ("first", written.date, written.machine)


def test_results_are_in_the_order_of_their_dates(tmp_path: Path) -> None:
    for day, label in ((3, "a"), (1, "c"), (2, "b")):
        write_result(result(label=label, day=day), tmp_path)
    assert [found.label for found in read_results(tmp_path)] == ["c", "b", "a"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 99}', '{"format": 1}'])
def test_file_of_another_kind_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ResultError, match=r"other\.json"):
        read_results(tmp_path)


def test_rate_counts_only_good_answers() -> None:
    figures = sample(rate=1000.0).figures
    assert figures.rate == 1000.0
    assert figures.good == figures.requests == 2000


def test_table_shows_the_median_and_the_extremes_of_the_rounds() -> None:
    rounds = [sample(number=number, rate=rate) for number, rate in ((1, 900), (2, 1100), (3, 950))]
    line = table(result(*rounds)).splitlines()[1].split()
    assert line[:4] == ["create", "ticketd", "950", "900-1,100"]
