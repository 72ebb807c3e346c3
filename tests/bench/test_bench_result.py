from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_builders import result_of, row
from hypothesis import given
from hypothesis import strategies as st

from outlex.bench import BenchResult
from outlex.bench.partial import PartialFile
from outlex.bench.result import header_of
from outlex.errors import ArtifactError, InputError

ROWS = [row(), row(method="untrimmed", n_tested=3, sum_beta=2.5, n_accepted=2, draft_s=0.1)]
numbers = st.floats(1e-9, 1e9)


@given(
    rows=st.lists(
        st.builds(
            lambda **changes: row(**changes),
            token_ids=st.lists(st.integers(0, 10**6), min_size=1).map(tuple),
            sum_beta=st.none() | numbers,
            n_tested=st.none() | st.integers(0, 50),
            draft_step_s=st.none() | numbers,
            wall_s=numbers,
            prompt_id=st.text(),
            temperature=st.sampled_from([0.0, 0.7]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_comes_back_unchanged(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "result.json"
    result = result_of(rows)
    result.save(path)
    assert BenchResult.load(path) == result
    body = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [tuple(r["token_ids"]) for r in body["rows"]] == [r.token_ids for r in rows]


def test_the_file_has_the_summary_and_one_line_a_run(tmp_path: Path) -> None:
    result_of(ROWS).save(tmp_path / "r.json")
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert sum('"token_ids"' in line for line in lines) == 2
    body = json.loads("\n".join(lines))
    assert (body["kind"], body["schema"], body["complete"]) == ("outlex-bench", 1, True)
    assert body["summary"][0]["tokens_per_s"] == 2.0


def test_a_file_that_was_only_formatted_anew_is_read(tmp_path: Path) -> None:
    path, result = tmp_path / "r.json", result_of(ROWS)
    result.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True))
    assert BenchResult.load(path) == result


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_an_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "r.json"
    result_of(ROWS).save(path)
    data = path.read_bytes().rstrip()
    path.write_bytes(data[: math.floor(share * len(data))])
    with pytest.raises(ArtifactError, match=r"r\.json is not a benchmark result[\s\S]*run the benchmark again"):
        BenchResult.load(path)


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda body: body.pop(key)


def _with_row(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["rows"][1].update(changes)


@pytest.mark.parametrize(
    "damage",
    [
        _without("rows"),
        _without("kind"),
        _without("complete"),
        _without("checksum"),
        _without("models"),
        lambda body: body.update(kind="sub-vocab"),
        lambda body: body.update(schema=2),
        lambda body: body.update(config=[]),
        lambda body: body["config"].pop("draft_len"),
        lambda body: body["environment"].update(threads=64),
        lambda body: body["summary"][0].update(tokens_per_s=99.0),
        lambda body: body["methods"].append({"name": "x"}),
        lambda body: body["methods"].append(3),
        lambda body: body["rows"].append({}),
        lambda body: body["rows"][0].pop("wall_s"),
        _with_row(surprise=1),
        _with_row(wall_s="2"),
        _with_row(wall_s=0.5),
        _with_row(token_ids=3),
    ],
)
def test_a_changed_file_is_an_error(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    path = tmp_path / "r.json"
    result_of(ROWS).save(path)
    body = json.loads(path.read_text())
    damage(body)
    path.write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=r"not a benchmark result[\s\S]*schema 1"):
        BenchResult.load(path)


def test_a_file_that_is_missing_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a benchmark result"):
        BenchResult.load(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    with pytest.raises(ArtifactError, match="not a benchmark result"):
        BenchResult.load(tmp_path / "binary.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ArtifactError, match="not a benchmark result"):
        BenchResult.load(tmp_path / "list.json")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot be written[\s\S]*choose another file with -o"):
        result_of(ROWS).save(tmp_path / "absent" / "r.json")


@pytest.mark.parametrize("n_cut", [0, 1, 40])
def test_a_partial_file_gives_back_the_rows_that_are_whole(tmp_path: Path, n_cut: int) -> None:
    result = result_of(ROWS)
    partial = PartialFile(tmp_path / "r.json").__enter__()
    partial.write_header(header_of(result))
    partial.write_rows(ROWS[:1])
    partial.write_rows(ROWS[1:])
    partial.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    path = tmp_path / "r.json.partial"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - n_cut])
    got = BenchResult.load(path)
    assert not got.complete
    assert got.rows == result.rows[: 1 if n_cut else 2]
    assert got.methods == result.methods


@pytest.mark.parametrize("changes", [{"token_ids": ()}, {"wall_s": 0.0}, {"wall_s": math.nan}])
def test_a_run_without_tokens_or_time_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"ar on prompt 'a' cannot be right[\s\S]*report it"):
        row(**changes)


def test_a_partial_file_goes_away_when_it_is_not_needed(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a.json") as partial:
        partial.write_header({})
        partial.write_rows(ROWS)
    partial = PartialFile(tmp_path / "b.json").__enter__()
    partial.write_header({})
    partial.__exit__(RuntimeError, RuntimeError(), None)
    assert list(tmp_path.iterdir()) == []
    with PartialFile(None) as partial:
        partial.write_rows(ROWS)
    assert partial.path is None
