"""The page and the charts that are drawn from results."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from bench.charts import Axes, Bar, Line, bars, lines, number_text
from bench.iterations import fill
from bench.percentiles import spread_of
from bench.report import report
from bench.result import ResultError
from tests.bench.samples import result, sample

SVG = "{http://www.w3.org/2000/svg}"


def peers_run() -> tuple[str, dict[str, str]]:
    samples = [
        sample(contestant=name, number=number, rate=rate * number, cpu_us=cpu)
        for number in (1, 2)
        for name, rate, cpu in (("ticketd", 2000.0, 40.0), ("go", 1000.0, 90.0))
    ]
    return report([result(*samples)])


def test_ratio_to_a_peer_is_worked_out_by_round() -> None:
    page, _ = peers_run()
    assert "| create: ticketd to go | 2.00 | 2.00 | 2.00 | 2 |" in page


def test_every_chart_of_the_page_is_drawn_and_well_formed() -> None:
    page, charts = peers_run()
    assert {f"![{_title(chart)}](charts/{name})" in page for name, chart in charts.items()} == {
        True
    }
    assert {"bench-peers-create-rate.svg", "bench-iterations-create-cpu.svg"} <= set(charts)


def test_iterations_are_in_the_order_of_their_dates_with_their_figures() -> None:
    runs = [
        result(sample(rate=rate, cpu_us=cpu), label=label, day=day)
        for day, label, rate, cpu in ((1, "before", 2000, 180.0), (2, "lanes", 19000, 48.0))
    ]
    page, _ = report(runs)
    assert "| before | 2026-01-01 00:00 | 012345678 | 2,000 | 180 |" in page
    assert page.index("| before |") < page.index("| lanes |")
    assert "| lanes | 2026-01-02 00:00 | 012345678 | 19,000 | 48 |" in page


def test_latency_is_drawn_against_the_offered_load() -> None:
    run = result(*(sample("latency", rate=rate, offered=rate) for rate in (100.0, 200.0)))
    page, charts = report([run])
    drawing = ElementTree.fromstring(charts["bench-latency.svg"])  # noqa: S314 - our own text
    assert len(drawing.findall(f"{SVG}polyline")) == 2  # p50 and p99
    assert "## Latency" in page


def test_page_without_results_says_how_to_get_them() -> None:
    page, charts = report([])
    assert "make bench" in page
    assert charts == {}


def test_bars_are_as_long_as_their_medians() -> None:
    chart = ElementTree.fromstring(  # noqa: S314 - our own text
        bars("a", [Bar(label="<a & b>", value=spread_of([v])) for v in (50.0, 100.0)])
    )
    half, whole = (float(bar.get("width") or 0) for bar in chart.findall(f"{SVG}rect"))
    assert whole == pytest.approx(2 * half, abs=0.2)


def test_wide_values_are_drawn_on_powers_of_ten() -> None:
    axes = Axes.around([(1.0, 2.0), (2.0, 900.0)])
    assert axes.y_ticks() == [1.0, 10.0, 100.0, 1000.0]
    points = [axes.place(1, y)[1] for y in axes.y_ticks()]
    steps = [above - below for above, below in pairwise(points)]
    assert steps == pytest.approx([steps[0]] * 3)


def test_lines_of_nothing_are_an_empty_chart() -> None:
    assert "<svg" in lines("t", "x", "y", [Line(label="a", points=[])])


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.1234, "0.123"), (12.345, "12.3"), (20600.4, "20,600")]
)
def test_numbers_have_the_digits_that_matter(value: float, text: str) -> None:
    assert number_text(value) == text


def _title(chart: str) -> str:
    found = ElementTree.fromstring(chart).find(f"{SVG}text")  # noqa: S314 - our own text
    assert found is not None
    return found.text or ""


def test_table_of_an_iteration_is_filled_in_and_the_words_stay() -> None:
    run = result(sample(rate=4321.0), label="lanes")
    page = f"Слова.\n<!-- result: {run.file_name} -->\nold\n<!-- end -->\nMore."
    filled = fill(page, {run.file_name: run}, lambda found: f"table of {found.label}")
    assert filled == page.replace("old", "\ntable of lanes\n")
    assert fill(filled, {run.file_name: run}, lambda found: f"table of {found.label}") == filled


def test_iteration_that_names_no_result_file_is_refused() -> None:
    with pytest.raises(ResultError, match=r"gone\.json"):
        fill("<!-- result: gone.json -->\n<!-- end -->", {}, lambda found: "")
