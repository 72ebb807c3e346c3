"""`--cross-tokenizer`: a drafter with another tokenizer, for those who ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_builders import json_of, run, traced_pair

from outlex.bench import BenchConfig
from outlex.errors import InputError

JSON = ("--json", "--dtype", "float32")
PLAIN = ("-p", "the mill", "--max-new-tokens", "12", *JSON)


def test_it_has_to_be_asked_for_and_keeps_the_text(models: Path) -> None:
    request = ("generate", "--target", models / "target", *PLAIN)
    refused = run(*request, "--drafter", models / "german")
    assert refused.exit_code == 1
    assert "different tokenizers" in refused.stderr
    assert "--cross-tokenizer" in refused.stderr
    alone = json_of(run(*request))
    drafted = json_of(run(*request, "--drafter", models / "german", "--cross-tokenizer"))
    assert drafted["token_ids"] == alone["token_ids"]
    assert drafted["drafter"] == "german"
    assert drafted["stats"]["n_tested"] > 0


def test_a_trimmed_drafter_may_be_one_of_another_tokenizer(models: Path, trimmed: Path) -> None:
    request = ("generate", "--target", models / "german", *PLAIN)
    drafted = json_of(run(*request, "--trimmed", trimmed, "--cross-tokenizer"))
    assert drafted["token_ids"] == json_of(run(*request))["token_ids"]
    assert (drafted["drafter"], drafted["head"]) == ("drafter", "trimmed-290")


def test_the_benchmark_compares_such_drafters(models: Path, prompts: Path) -> None:
    pair = ("--target", models / "target", "--drafter", models / "german")
    request = ("bench", *pair, "--prompts", prompts, "--max-new-tokens", "8", "--temperature", "0", *JSON)
    result = json_of(run(*request, "--cross-tokenizer", "--baselines", "ar,untrimmed"))
    texts: dict[Any, set[Any]] = {}
    for row in result["rows"]:
        texts.setdefault(row["prompt_id"], set()).add(tuple(row["token_ids"]))
    assert len(texts) == 2
    assert all(len(of_prompt) == 1 for of_prompt in texts.values())
    refused = run(*request, "--baselines", "ar,untrimmed")
    assert refused.exit_code == 1
    assert "--cross-tokenizer" in refused.stderr


@pytest.mark.parametrize("changes", [{"baselines": ("ar", "transformers")}, {"baselines": ("ar",), "batch_size": 2}])
def test_methods_that_cannot_translate_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"another tokenizer[\s\S]*give --baselines ar,untrimmed"):
        BenchConfig(target="t", drafter="d", prompts="p", cross_tokenizer=True, **changes)


@pytest.fixture(scope="module")
def traces(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 prompts of a pair with one tokenizer, read once more by a drafter with another."""
    folder = tmp_path_factory.mktemp("cross")
    one = traced_pair(models, folder, n_prompts=16, max_new_tokens=8)
    request = ("retrace", "--traces", one, "--drafter", models / "german", "-o", folder / "cross", *JSON)
    refused = run(*request)
    assert refused.exit_code == 1
    assert "--cross-tokenizer" in refused.stderr
    report = json_of(run(*request, "--cross-tokenizer"))
    assert report["n_prompts"] == 16
    assert report["drafter"] == "german"
    assert "experiment" in report["next"]
    return folder / "cross"


def test_tracing_such_a_pair_has_to_be_asked_for(models: Path, prompts: Path, tmp_path: Path) -> None:
    pair = ("--target", models / "target", "--drafter", models / "german")
    request = ("trace", *pair, "--prompts", prompts, "--max-new-tokens", "6", "-o", tmp_path / "t", *JSON)
    refused = run(*request)
    assert refused.exit_code == 1
    assert "--cross-tokenizer" in refused.stderr
    assert json_of(run(*request, "--cross-tokenizer"))["n_positions"] > 0


def test_traces_are_fitted_to_forecast_and_decoded_with(
    models: Path, traces: Path, counts: Path, tmp_path: Path
) -> None:
    trim = ("trim", models / "german", "--tokens", counts, "--size", 290, "-o", tmp_path / "small")
    assert run(*trim).exit_code == 0
    fit = ("fit", "--traces", traces, "--trimmed", tmp_path / "small", "-o", tmp_path / "fitted", "--json")
    report = json_of(run(*fit, "--proposal", "respelled"))
    assert {trial["name"] for trial in report["trials"]} == {"tli", "respelled"}
    forecast = run(
        *("forecast", "--traces", traces, "--trimmed", tmp_path / "fitted", "--tokens", counts, "--sizes", "280"),
        "--json",
    )
    names = {cell["candidate"] for cell in json_of(forecast)["cells"]}
    assert names == {"untrimmed", "trimmed-290", "trimmed-280"}
    generate = ("generate", "--target", models / "target", "--trimmed", tmp_path / "fitted", *PLAIN)
    assert json_of(run(*generate, "--cross-tokenizer"))["head"] == "trimmed-290"


def test_experiments_read_such_traces(traces: Path, tmp_path: Path) -> None:
    request = ("experiment", "pruning", "--traces", traces, "-o", tmp_path, "--proposal", "respelled", "--json")
    result = json_of(run(*request, "--pruned", "0"))
    assert result["config"]["cross_tokenizer"] is True
    assert {row["sampler"] for row in result["rows"]} == {"tli", "respelled", "respelled + tli"}
    refused = run(*request, "--pruned", "-0.1")
    assert refused.exit_code == 2
    assert "another tokenizer" in refused.stderr
