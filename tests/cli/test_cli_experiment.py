"""`outlex experiment`: a JSON file and a table for each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_builders import N_ROWS, json_of, run, traced_pair


@pytest.fixture(scope="module")
def traces(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_pair(models, tmp_path_factory.mktemp("experiment"), n_prompts=16, max_new_tokens=10)


def test_table_and_file_say_the_same(traces: Path, tmp_path: Path) -> None:
    arguments = ("experiment", "decomposition", "--traces", traces, "--proposal", "cold-row", "--pruned", 0.8)
    result = run(*arguments, "-o", tmp_path / "x")
    assert result.exit_code == 0, result.stderr
    for needle in ("gain on cold", "bonus lost", "vanilla", "cold-row, Jensen", "renormalising is worth"):
        assert needle in result.stdout
    body = json.loads((tmp_path / "x" / "decomposition.json").read_text(encoding="utf-8"))
    assert body["config"]["sizes"] == [round(0.2 * N_ROWS)]
    again = json_of(run(*arguments, "-o", tmp_path / "x", "--json"))
    assert again["rows"] == body["rows"]


def test_a_ranking_can_be_given(traces: Path, counts: Path, tmp_path: Path) -> None:
    arguments = ("experiment", "cascade", "--traces", traces, "--tokens", counts, "-o", tmp_path, "--pruned", 0.5)
    body = json_of(run(*arguments, "--limit", 14, "--json"))
    assert body["config"]["ranking"] == "given"
    assert sum(part["prompts"] for part in body["config"]["prompts"].values()) == 14


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["rdk"], 2, "rdk"),
        (["greedy", "--pruned", "0"], 2, "different numbers from 1 to 329"),
        (["greedy", "--pruned", "1"], 2, "keeps one row in a hundred"),
        (["greedy", "--temperature", "0"], 2, "sampled drafting"),
        (["greedy", "--limit", "3"], 2, "trace more prompts"),
        (["greedy", "--tokens", "{traces}"], 2, "other prompts"),
        (["greedy", "--proposal", "rdk"], 2, "rdk"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_explained(
    traces: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(traces=traces) for argument in arguments]
    result = run("experiment", *filled, "--traces", traces, "-o", tmp_path / "x")
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()
