"""The commands take the directory of an EAGLE drafter wherever they take a drafter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_builders import json_of, run
from eagle_builders import tiny_eagle
from tiny_models import tiny_model

from outlex.formats.eagle_checkpoint import save_eagle
from outlex.models import load_model

FAST = ("--dtype", "float32", "--threads", 1)
SIZES: dict[str, Any] = {"seed": 1, "n_layers": 4, "n_rows": 8320, "hidden_size": 64, "head_dim": 16}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """--target and --drafter: a target whose head is large enough for a preview, and an EAGLE drafter."""
    root = tmp_path_factory.mktemp("pair")
    model = tiny_model(**SIZES)
    model.model.save_pretrained(root / "target")
    model.tokenizer.save_pretrained(root / "target")
    loaded = load_model(root / "target", dtype="float32", threads=1, progress=False)
    save_eagle(root / "eagle", tiny_eagle(loaded))
    return ["--target", root / "target", "--drafter", root / "eagle"]


@pytest.fixture(scope="module")
def traces(pair: list[object], texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "t"
    result = run("trace", *pair, "--prompts", texts, "-o", path, "--max-new-tokens", 40, *FAST, "--temperature", 1)
    assert result.exit_code == 0, result.stderr
    return path


def test_a_head_fitted_to_traces_drafts(pair: list[object], traces: Path, tmp_path: Path) -> None:
    fitted = json_of(run("fit-head", "--traces", traces, "--budget", 0.4, "-o", tmp_path / "p", "--json"))
    assert fitted["head"]["base"] == "eagle"
    target = pair[:2]
    asked = ("-p", "the river", "--max-new-tokens", 6, *FAST, "--json")
    with_drafter = json_of(run("generate", *pair, "--trimmed", tmp_path / "p", *asked))
    by_its_base = json_of(run("generate", *target, "--trimmed", tmp_path / "p", *asked))
    alone = json_of(run("generate", *target, *asked))
    assert with_drafter["drafter"] == by_its_base["drafter"] == "eagle"
    assert with_drafter["head"] == fitted["name"]
    assert with_drafter["token_ids"] == by_its_base["token_ids"] == alone["token_ids"]
    forecast = run("forecast", "--traces", traces, "--trimmed", tmp_path / "p", "--json")
    assert json_of(forecast)["drafter"] == "eagle"
    assert "that of first drafts" in " ".join(forecast.stderr.split())
    refused = run("forecast", "--traces", traces, "--trimmed", tmp_path / "p", "--measure")
    assert refused.exit_code == 2
    assert "--bench RESULT" in refused.stderr


def test_a_trimmed_head_is_measured_beside_the_whole_one(
    pair: list[object], texts: Path, traces: Path, tmp_path: Path
) -> None:
    drafter = pair[3]
    trimming = ("trim", drafter, "--tokens", traces, "--threads", 1, "--dtype", "float32")
    for size in (("--size", 257), ("--size", "auto")):
        result = run(*trimming, *size, "-o", tmp_path / "t")
        assert result.exit_code == 0, result.stderr
    searched = run(*trimming, "--size", "auto", "--objective", "latency", "-o", tmp_path / "u")
    assert searched.exit_code == 2
    assert "--size N" in searched.stderr
    asked = ("bench", *pair, "--prompts", texts, "--limit", 1, "--max-new-tokens", 4, *FAST)
    assert run(*asked, "--trimmed", tmp_path / "t", "--baselines", "ar,untrimmed", "-o", tmp_path / "r").exit_code == 0
    result = json.loads((tmp_path / "r").read_text(encoding="utf-8"))
    assert result["models"]["drafter"]["type"] == "eagle3"
    for wrong in (("--baselines", "ar,transformers"), ("--baselines", "untrimmed", "--batch-size", 2)):
        refused = run(*asked, *wrong)
        assert refused.exit_code == 2
        assert "--baselines ar,untrimmed" in refused.stderr


def test_drafters_for_another_target_end_with_the_typed_error(pair: list[object], models: Path) -> None:
    refused = run("generate", "--target", models / "target", *pair[2:], "-p", "x", *FAST)
    assert refused.exit_code == 1
    assert "another target" in refused.stderr
