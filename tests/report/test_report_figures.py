"""Every figure shows the numbers of its file, where they belong, and says them again in a table."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from report_results import BODIES, ENVIRONMENT, body_of, write

from outlex.report import read_results
from outlex.report.figure import WIDTHS, Figure, Section
from outlex.report.kinds import KINDS
from outlex.report.values import Value

NO_NUMBERS = {"generation"}  # its figures have tests of their own


def section_of(name: str, tmp_path: Path, body: dict[str, Any] | None = None) -> Section:
    (section,) = read_results(write(tmp_path, **{name: body or BODIES[name]})).sections
    return section


def figure_of(section: Section, title: str) -> Figure:
    (found,) = (figure for figure in section.figures if figure.title.startswith(title))
    return found


def drawing_of(figure: Figure, width: int = WIDTHS["wide"]) -> ElementTree.Element:
    content = figure.content
    assert content is not None
    assert not isinstance(content, str)
    return ElementTree.fromstring(content.draw(width))


def marks_of(drawing: ElementTree.Element) -> list[dict[str, str]]:
    return [dict(element.attrib) for element in drawing.iter() if "data-value" in element.attrib]


def values_of(drawing: ElementTree.Element) -> list[float]:
    return [float(mark["data-value"]) for mark in marks_of(drawing)]


def assert_same(shown: list[float], wanted: list[float]) -> None:
    assert sorted(shown) == pytest.approx(sorted(wanted), rel=1e-5, abs=1e-12)


def rows_of(name: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in BODIES[name]["rows"] if all(row.get(key) == value for key, value in wanted.items())]


@pytest.mark.parametrize("name", sorted(set(BODIES) - NO_NUMBERS))
def test_every_number_of_a_drawing_is_in_its_table(name: str, tmp_path: Path) -> None:
    for figure in section_of(name, tmp_path).figures:
        assert figure.table is not None
        assert figure.table.rows
        if figure.content is None:
            continue
        cells = [cell for row in figure.table.rows for cell in row]
        numbers = (cell.value if isinstance(cell, Value) else cell for cell in cells)
        known = [abs(cell) for cell in numbers if isinstance(cell, (int, float))]
        for width in WIDTHS.values():
            for value in values_of(drawing_of(figure, width)):
                assert any(math.isclose(abs(value), other, rel_tol=1e-5, abs_tol=1e-12) for other in known), (
                    figure.title
                )


@pytest.mark.parametrize("name", sorted(BODIES))
def test_every_figure_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    section = section_of(name, tmp_path)
    for figure in section.figures:
        page = figure.html(section.source)
        assert figure.rests_on in re.sub(r"<[^>]+>", "", page)
        assert f"{name}.json" in page
        if "environment" in BODIES[name]:
            assert "0123456789ab" in page
            assert "outlex experiment pruning --traces traces -o &#x27;a folder&#x27;" in page
            assert "torch 2.9" in page
            assert "2 of 2 cores" in page
        else:
            assert "not recorded" in page


def test_acceptance_curves_have_the_values_the_intervals_and_both_bounds(tmp_path: Path) -> None:
    drawing = drawing_of(figure_of(section_of("pruning", tmp_path), "Acceptance against"))
    series = {
        str(group.get("data-series")): {float(mark["data-x"]): mark for mark in marks_of(group)}
        for group in drawing.iter()
        if group.get("data-series")
    }
    tli = {row["n_draft"]: row["alpha"] for row in rows_of("pruning", domain="all", sampler="tli")}
    for size, (value, low, high) in tli.items():
        mark = series["TLI, 95 % interval"][size]
        assert [float(mark[key]) for key in ("data-value", "data-low", "data-high")] == pytest.approx(
            [value, low, high]
        )
    assert {float(mark["data-value"]) for mark in series["untrimmed head"].values()} == {0.8}
    assert float(series["ceiling 1 − oov mass"][1000]["data-value"]) == 0.93
    assert float(series["chosen by calibration"][100]["data-value"]) == pytest.approx(0.63)
    assert any("band" in str(element.get("class")) for element in drawing.iter())


def test_gains_are_paired_differences_and_what_is_too_low_is_an_arrow_with_its_value(tmp_path: Path) -> None:
    figure = figure_of(section_of("pruning", tmp_path), "Gain in α")
    drawing = drawing_of(figure)
    kept = [row for row in rows_of("pruning", domain="all") if row["sampler"] in ("cold-row", "sparse-kernel, x")]
    assert_same(values_of(drawing), [row["gain"][0] for row in kept])
    assert "2 mixtures with λ = 0 are TLI itself" in figure.note
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert texts.count("−0.4000") == 2


def test_marks_of_an_interval_chart_stand_where_their_values_are(tmp_path: Path) -> None:
    drawing = drawing_of(figure_of(section_of("forecast", tmp_path), "Speed against"))
    groups = [element for element in drawing.iter() if "data-value" in element.attrib]
    places, values, ends = [], [], []
    for group in groups:
        (dot,) = (child for child in group if child.tag == "circle")
        (whisker,) = (child for child in group if "interval" in child.attrib["class"])
        places.append(float(dot.attrib["cx"]))
        values.append(float(group.attrib["data-value"]))
        found = re.match(r"M([\d.]+) [\d.]+H([\d.]+)", whisker.attrib["d"])
        assert found is not None
        ends.append((float(found[1]), float(found[2])))
    slope, start = np.polyfit(values, places, 1)
    assert slope > 100
    for group, place, value, (low, high) in zip(groups, places, values, ends, strict=True):
        assert place == pytest.approx(start + slope * value, abs=0.15)
        assert low == pytest.approx(start + slope * float(group.attrib["data-low"]), abs=0.2)
        assert high == pytest.approx(start + slope * float(group.attrib["data-high"]), abs=0.2)


def test_time_scaling_is_straight_on_logarithmic_axes_with_the_slopes_that_were_put_in(tmp_path: Path) -> None:
    figure = figure_of(section_of("scaling", tmp_path), "Time of a draft step, the pair")
    drawing = drawing_of(figure)
    slopes = {}
    for group in drawing.iter():
        name = group.get("data-series")
        if name is None:
            continue
        path = next(child.attrib["d"] for child in group if "line" in child.attrib["class"])
        points = np.array([[float(x) for x in pair.split()] for pair in path[1:].split("L")])
        steps = np.diff(points, axis=0)
        slopes[name] = float(-steps[0, 1] / steps[0, 0])
        assert np.allclose(-steps[:, 1] / steps[:, 0], slopes[name], rtol=0.02)
    assert set(slopes) == {"rdk-first-order, slope 1.00", "rdk-exact, slope 2.00"}
    assert slopes["rdk-exact, slope 2.00"] / slopes["rdk-first-order, slope 1.00"] == pytest.approx(2, rel=0.02)


def test_step_times_of_a_growing_vocabulary_are_a_figure_of_their_own(tmp_path: Path) -> None:
    drawing = drawing_of(figure_of(section_of("scaling", tmp_path), "Time of a draft step as the target"))
    assert_same(values_of(drawing), [row["step_s"] for row in rows_of("scaling", part="step times")])
    names = {element.get("data-series") for element in drawing.iter()} - {None}
    assert names == {"tli, slope 0.00", "whole head, slope 1.00"}


def test_stacked_bars_split_the_time_of_a_token_and_their_widths_add_up(tmp_path: Path) -> None:
    drawing = drawing_of(figure_of(section_of("bench", tmp_path), "Where the time"))
    wanted, totals = [], []
    for one in BODIES["bench"]["summary"]:
        head = one.get("head_s") or 0.0
        parts = [one["draft_s"] - head, head, one["target_s"], one["other_s"]]
        wanted += [part * 1e3 / 200 for part in parts if part]
        totals.append(sum(parts) * 1e3 / 200)
    assert_same(values_of(drawing), wanted)
    scales = []
    for element in drawing.iter():
        if "data-part" in element.attrib:
            box = next(child for child in element if child.tag == "rect")
            # a pixel of air is left between neighbours
            scales.append((float(box.attrib["width"]) + 1) / float(element.attrib["data-value"]))
    assert max(scales) - min(scales) < 0.1
    shown = [element.text for element in drawing.iter() if element.get("class") == "number"]
    assert len(shown) == len(totals)
    assert {mark.get("data-part") for mark in marks_of(drawing)} == {
        "draft layers",
        "draft head",
        "target: verify",
        "other",
    }


def test_without_head_times_the_drafter_is_one_part(tmp_path: Path) -> None:
    body = body_of("bench")
    for one in body["summary"]:
        one.pop("head_s", None)
    figure = figure_of(section_of("bench", tmp_path, body), "Where the time")
    assert {mark.get("data-part") for mark in marks_of(drawing_of(figure))} == {
        "drafter, its head included",
        "target: verify",
        "other",
    }
    assert "draft head" not in str(figure.content.legend)  # type: ignore[union-attr]


def test_a_benchmark_of_batches_shows_acceptance_and_no_seconds(tmp_path: Path) -> None:
    body = body_of("bench")
    body["config"]["batch_size"] = 35
    titles = [figure.title for figure in section_of("bench", tmp_path, body).figures]
    assert titles == ["Acceptance", "Acceptance in each domain", "More of each method"]


@pytest.mark.parametrize(
    ("name", "title", "wanted"),
    [
        ("bench", "Speed", [10.0, 12.5, 16.25] * 2),
        ("bench", "Speed-up over ar", [1.26, 1.635] * 2),
        ("bench", "Acceptance", [0.8, 0.75, 0.7, 0.65]),
        ("bench", "Acceptance in each domain", [0.8, 0.75, 0.81, 0.76, 0.7, 0.65, 0.71, 0.66]),
        ("forecast", "Acceptance", [0.8, 0.97, 0.7, 0.97]),
        ("forecast", "Tokens a target pass", [1.8, 1.7]),
        ("forecast", "Acceptance in each domain", [0.81, 0.71] * 2),
        ("fit", "Gain in α", [-0.02, 0.015]),
        ("trim", "Coverage of what", [0.91, 0.85]),
        ("trim", "What each size", [0.8, 0.9, 0.5, 0.4]),
        ("counts", "Tokens of each domain", [123, 456]),
        ("decomposition", "What is gained", [-0.02, 0.05, -0.03, 0.0] * 2),
        ("cascade", "Memory-bound", [1.2, 1.12, 1.3, 1.2, 1.14, 1.3]),
        ("greedy", "Gain in α", [0.0, 0.0, 0.012, -0.012]),
        # of rare text, recorded without shares, a mixture without any is drawn as well
        ("skewed", "Gain in α", [0.02, -0.4, 0.02, -0.4, 0.0]),
        ("priors", "Acceptance in each domain", [0.62, 0.64, 0.02, 0.63, 0.65, 0.02] * 2),
    ],
)
def test_the_values_of_a_drawing_are_those_of_the_file(
    name: str, title: str, wanted: list[float], tmp_path: Path
) -> None:
    section = section_of(name, tmp_path)
    exact = [figure for figure in section.figures if figure.title == title]
    for width in WIDTHS.values():
        assert_same(values_of(drawing_of(exact[0] if exact else figure_of(section, title), width)), wanted)


def test_an_experiment_of_a_new_name_is_shown_as_a_table(tmp_path: Path) -> None:
    body = {**body_of("greedy"), "name": "something-new"}
    (figure,) = section_of("new", tmp_path, body).figures
    assert figure.content is None
    assert "cold-row" in figure.html(section_of("new", tmp_path, body).source)


def test_rows_that_a_script_recorded_are_shown_as_they_are(tmp_path: Path) -> None:
    body = {"environment": ENVIRONMENT, "rows": [{"setting": "one", "gain": [0.1, 0.05, 0.15]}]}
    section = section_of("some_script", tmp_path, body)
    page = section.html("x")
    assert section.title == "Some script"
    assert "0.1000 <small>[0.0500, 0.1500]</small>" in page
    assert "torch 2.9" in page


def test_every_kind_has_a_result_in_these_tests_or_in_the_repository() -> None:
    of_scripts = {"a check of forecasts", "an experiment", "a demo", "recorded rows"}
    of_scripts |= {"the acceptance of heads", "the times of heads", "the acceptance of rankings"}
    of_scripts |= {"the coverage of rankings", "the speed of counting"}
    found = {next(kind.name for kind in KINDS if kind.matches(body)) for body in BODIES.values()}
    assert {kind.name for kind in KINDS} == found | of_scripts
