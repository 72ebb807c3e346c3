"""`outlex diff`: two maps of any two formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_builders import json_of, run
from map_files import ASCENDING, RANKED, eagle3, speculators, torch_file, write_json


def test_the_same_map_in_two_spellings(tmp_path: Path) -> None:
    a, b = torch_file(tmp_path / "a.pt", list(RANKED)), eagle3(tmp_path / "b")
    result = json_of(run("diff", a, b, "--json"))
    assert result["identical"]
    assert result["same_tokens"]
    assert (result["a"]["spelling"], result["b"]["spelling"]) == ("absolute", "offsets")
    assert "identical" in run("diff", a, b).stdout


def test_another_order(tmp_path: Path) -> None:
    result = json_of(run("diff", eagle3(tmp_path / "a"), speculators(tmp_path / "b"), "--json"))
    assert (result["identical"], result["same_tokens"], result["same_order"]) == (False, True, False)
    assert "in another order" in run("diff", tmp_path / "a", tmp_path / "b").stdout


def test_tokens_of_one_map_only(models: Path, tmp_path: Path) -> None:
    a, b = write_json(tmp_path / "a.json", [5, 7, 260]), torch_file(tmp_path / "b.pt", [7, 9, 5])
    result = json_of(run("diff", a, b, "--json"))
    assert [token["id"] for token in result["a"]["only"]] == [260]
    assert [token["id"] for token in result["b"]["only"]] == [9]
    assert (result["n_shared"], result["jaccard"], result["same_order"]) == (2, 0.5, False)
    assert result["a"]["only"][0]["name"] is None
    named = json_of(run("diff", a, b, "--tokenizer", models / "target", "--json"))
    assert named["a"]["only"][0]["name"].startswith("'")
    assert named["a"]["only"][0]["name"] in run("diff", a, b, "--tokenizer", models / "target").stdout


def test_coverage_of_both(models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"text": "the river and the mill and the town"}\n' * 3, encoding="utf-8")
    stats = tmp_path / "stats.safetensors"
    counted = run("count", tmp_path / "text.jsonl", "--tokenizer", models / "target", "-o", stats)
    assert counted.exit_code == 0, counted.stderr
    a, b = write_json(tmp_path / "a.json", list(range(320))), write_json(tmp_path / "b.json", list(range(200)))
    options = ("--stats", stats, "--tokenizer", models / "target")
    result = json_of(run("diff", a, b, *options, "--json"))
    assert result["a"]["coverage"]["total"] == pytest.approx(1)
    assert result["coverage_b_less_a"] == pytest.approx(result["b"]["coverage"]["total"] - 1)
    assert result["coverage_b_less_a"] < 0
    assert "b less a" in run("diff", a, b, *options).stdout
    foreign = run("diff", a, b, "--stats", stats, "--tokenizer", models / "german")
    assert foreign.exit_code == 1
    assert "another tokenizer" in foreign.stderr


def test_what_cannot_be_read(tmp_path: Path) -> None:
    good = write_json(tmp_path / "a.json", ASCENDING)
    missing = run("diff", good, tmp_path / "nothing")
    assert (missing.exit_code, missing.stdout) == (2, "")
    unclear = run("diff", good, torch_file(tmp_path / "b.pt", torch.tensor([0, 2, 5])))
    assert unclear.exit_code == 1
    assert "--read-as" in unclear.stderr


def test_help_has_an_example() -> None:
    text = run("diff", "--help").stdout
    assert "outlex diff" in text
    assert "--json" in text
