"""What is read, what is refused, and that nothing in a file becomes part of the page's code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from bench_builders import result_of, row
from cli_builders import json_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from report_results import BODIES, EVIL, body_of, write

from outlex.errors import ArtifactError, InputError
from outlex.report import read_results, write_report
from outlex.report.markup import data_block, join, tag
from outlex.report.scale import covering
from outlex.report.values import Value, aligned, short

ROOT = Path(__file__).resolve().parents[2]


def page_of(folder: Path) -> str:
    output = folder.with_suffix(".html")
    write_report(folder, output)
    return output.read_text(encoding="utf-8")


def without_scripts(page: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


# --- what is read ------------------------------------------------------------------------------------------


def test_results_are_found_below_and_unknown_and_hidden_files_are_not_taken_for_results(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", pruning=BODIES["pruning"])
    write(tmp_path / ".cache", fit=BODIES["fit"])
    write(tmp_path, config={"model_type": "llama"}, numbers=[1, 2])
    (tmp_path / "notes.txt").write_text("no JSON", encoding="utf-8")
    results = read_results(tmp_path)
    assert [section.source.name for section in results.sections] == ["a/b/pruning.json"]
    assert results.unknown == ("config.json", "numbers.json")


def test_the_repositorys_own_results_are_all_known_and_make_a_page_of_moderate_size(tmp_path: Path) -> None:
    results = write_report(ROOT / "benchmarks", tmp_path / "page.html")
    assert len(results.sections) > 10
    ours = ("counting/", "forecast/", "heads/", "qwen_pair/", "rdk/", "selection/")
    assert [name for name in results.unknown if name.startswith(ours)] == []
    page = (tmp_path / "page.html").read_bytes()
    assert len(page) < 2_500_000
    markup = without_scripts(page.decode())
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,")""", markup)
    assert "url(" not in markup.replace("url(#hatch", "")
    assert "@import" not in markup


def test_a_benchmarks_file_is_taken_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    result_of([row(prompt_id=str(k)) for k in range(6)]).save(path)
    assert read_results(tmp_path).sections[0].title == "Benchmark"
    path.write_text(path.read_text(encoding="utf-8").replace('"wall_s": 2.0', '"wall_s": 1.0'), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"bench\.json is not a benchmark result"):
        read_results(tmp_path)


def test_the_same_files_make_the_same_page(tmp_path: Path) -> None:
    write(tmp_path / "in", **BODIES)
    assert page_of(tmp_path / "in") == page_of(tmp_path / "in")


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"kind": "outlex-experiment"',
        b"\xff\xfe\x00",
        b'{"alpha": NaN}',
        b'{"a": Infinity}',
        b"[" * 100_000,
    ],
    ids=["empty", "cut off", "cut off later", "no UTF-8", "NaN", "infinity", "too deep"],
)
def test_what_is_no_json_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, fit=BODIES["fit"])
    (tmp_path / "broken.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"broken\.json cannot be read") as caught:
        read_results(tmp_path)
    assert "move it out of the directory" in str(caught.value)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_a_result_that_lacks_something_is_an_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    body = body_of(name)
    lost = {"forecast": "notes", "fit": "prompts", "generation": "stats", "trim": "base", "counts": "n_entries"}
    del body[lost.get(name, "config")]
    with pytest.raises(ArtifactError, match=rf"{name}\.json is damaged") as caught:
        read_results(write(tmp_path, **{name: body}))
    assert "make it again" in str(caught.value)


@pytest.mark.parametrize("bad", ["0.5", None, [0.5], {"value": 1}, True, "<b>"])
def test_a_value_that_is_no_number_is_an_error_that_names_the_file(bad: Any, tmp_path: Path) -> None:
    body = body_of("pruning")
    body["rows"][0]["alpha"] = [bad, 0.1, 0.9] if not isinstance(bad, list) else bad
    if bad is None:
        body["rows"][0]["n_draft"] = None
    with pytest.raises(ArtifactError, match=r"pruning\.json is damaged"):
        read_results(write(tmp_path, pruning=body))


def test_a_number_beyond_all_floats_is_an_error(tmp_path: Path) -> None:
    text = json.dumps(BODIES["counts"]).replace("123", "1e999")
    (tmp_path / "counts.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"counts\.json is damaged"):
        read_results(tmp_path)


def test_a_token_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    body = body_of("generation")
    body["tokens"][0]["kind"] = 'x" onclick="evil()'
    with pytest.raises(ArtifactError, match=r"generation\.json is damaged"):
        read_results(write(tmp_path, generation=body))


def test_a_directory_without_results_and_none_at_all_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory") as caught:
        read_results(tmp_path / "nowhere")
    assert "-o" in str(caught.value)
    with pytest.raises(InputError, match="nothing to report") as caught:
        read_results(write(tmp_path, other={"a": 1}))
    assert "1 JSON files" in str(caught.value)
    assert "outlex bench" in str(caught.value)


def test_an_output_that_is_a_folder_or_below_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", fit=BODIES["fit"])
    with pytest.raises(InputError, match="cannot be written there") as caught:
        write_report(tmp_path / "in", tmp_path)
    assert "report.html" in str(caught.value)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(tmp_path / "in", tmp_path / "file" / "page.html")


# --- nothing in a file becomes code ------------------------------------------------------------------------


def test_text_of_models_and_files_is_shown_and_never_run(tmp_path: Path) -> None:
    body = body_of("generation")
    body["head"] = f"trimmed {EVIL}"
    body["environment"] = {**body["environment"], "argv": ["outlex", EVIL], "cpu": EVIL}
    folder = tmp_path / "in"
    name = "<img src=x onerror=alert(1)>"
    write(folder, **{name: body}, pruning=_evil_pruning(), other={"a": 1})
    (folder / "<b>unknown<").mkdir()
    write(folder / "<b>unknown<", odd=[])
    page = page_of(folder)
    assert EVIL not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in page
    # three elements: tokens as data, the page's own script, and no other
    assert len(re.findall(r"<script\b", page)) == 2


def _evil_pruning() -> dict[str, Any]:
    text = json.dumps(body_of("pruning")).replace("cold-row", "cold-row\\\"'><svg onload=alert(1)>")
    body: dict[str, Any] = json.loads(text)
    body["notes"].append(EVIL)
    return body


def test_halves_of_surrogate_pairs_and_control_characters_make_a_page(tmp_path: Path) -> None:
    body = body_of("generation")
    body["tokens"][0]["text"] = body["tokens"][0]["piece"] = "\ud83d \x00\x1b[31m\u202e"
    assert "<figure" in page_of(write(tmp_path / "in", generation=body))


@given(st.text())
def test_text_in_markup_comes_back_and_holds_no_element(text: str) -> None:
    import html

    made = tag("p", text, title=text)
    inside = made.partition(">")[2].removesuffix("</p>")
    assert html.unescape(inside) == text
    assert "<" not in inside
    assert made.count('"') == 2
    assert join(made) == made


@settings(max_examples=40)
@given(st.recursive(st.text() | st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_data_comes_back_and_cannot_end_its_element(value: Any) -> None:
    made = data_block(value, id_="x")
    inside = made.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert json.loads(inside) == value
    assert not set("<>&\u2028\u2029") & set(inside)


@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 6)), min_size=1, max_size=20),
    st.booleans(),
)
def test_an_axis_keeps_the_order_covers_everything_and_has_round_ticks(values: list[float], zero: bool) -> None:
    axis = covering(values, start=0.0, end=500.0, zero=zero)
    places = [axis(value) for value in sorted(values)]
    assert places == sorted(places)
    assert -1e-6 <= places[0] <= places[-1] <= 500 + 1e-6
    ticks = axis.ticks()
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in ticks)
    assert 1 <= len(ticks) <= 12


@given(st.floats(1e-8, 1e8), st.floats(1.0, 1e6))
def test_a_logarithmic_axis_has_ticks(low: float, times: float) -> None:
    axis = covering([low, low * times], start=0.0, end=500.0, log=True)
    assert axis.ticks()
    assert axis(low) < axis(low * times) or times < 1.0001


@pytest.mark.parametrize(
    ("value", "text", "lined_up"),
    [
        (0.7311077, "0.7311", "0.7311"),
        (0.25, "0.25", "0.2500"),
        (-0.04, "−0.04", "−0.0400"),
        (5.1e-05, "5.1e-05", "5.1e-05"),
        (4096.0, "4,096", "4,096"),
        (12.346, "12.35", "12.35"),
        (-3e-17, "0", "0"),
    ],
)
def test_numbers_as_people_read_them(value: float, text: str, lined_up: str) -> None:
    assert (short(value), aligned(value)) == (text, lined_up)
    assert str(Value(value=value, low=value, high=None)) == lined_up


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_names_what_it_left_out(tmp_path: Path) -> None:
    write(tmp_path / "in", **BODIES, other={"a": 1})
    result = run("report", tmp_path / "in", "-o", tmp_path / "made" / "page.html", "--title", "A <title>")
    assert result.exit_code == 0, result.stderr
    assert "left out: other.json" in result.stderr
    assert "13, " in result.stdout
    page = (tmp_path / "made" / "page.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;title&gt;</h1>" in page
    told = json_of(run("report", tmp_path / "in", "-o", tmp_path / "page.html", "--json"))
    assert told["unknown"] == ["other.json"]
    assert len(told["sections"]) == len(BODIES)
    assert told["n_bytes"] == (tmp_path / "page.html").stat().st_size


def test_bad_input_ends_the_command_with_two_and_damage_with_one(tmp_path: Path) -> None:
    assert run("report", tmp_path / "no", "-o", tmp_path / "page.html").exit_code == 2
    assert run("report", tmp_path, "-o", tmp_path / "page.html").exit_code == 2
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    result = run("report", tmp_path, "-o", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "broken.json" in result.stderr
    assert not (tmp_path / "page.html").exists()
