"""`outlex inspect`: every kind it knows, and refusals that name them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_builders import CONTEXT, END, N_ENTRIES, N_ROWS, json_of, run

from outlex.artifact import write_artifact
from outlex.drafters import TrimmedDrafter


def test_trimmed_drafter(models: Path, trimmed: Path) -> None:
    saved = TrimmedDrafter.load(trimmed)
    shown = json_of(run("inspect", trimmed, "--json"))
    assert shown["kind"] == "trimmed-drafter"
    assert shown["base"] == {"name": "drafter", "source": str(models / "drafter"), "n_rows": N_ROWS}
    assert shown["head"]["n_bytes"] == saved.linear.n_bytes
    assert shown["vocab"]["fingerprint"] == saved.vocab.fingerprint
    assert shown["vocab"]["provenance"]["source"] == "counts.json"
    must_keep = shown["tokens"]["must_keep"]
    assert must_keep["byte"] == {"n_kept": 256, "n": 256}
    assert must_keep["stop"] == {"n_kept": 1, "n": 1}
    always = set(saved.vocab.must_keep_ids)
    assert len(shown["tokens"]["hottest"]) == min(12, saved.vocab.n_draft - len(always))
    text = run("inspect", trimmed).stdout
    for needle in ("290 for a target of 330", "base drafter", "hottest", "coldest", saved.vocab.fingerprint):
        assert needle in text


def test_sub_vocabulary_needs_a_target_to_show_its_tokens(models: Path, trimmed: Path, tmp_path: Path) -> None:
    TrimmedDrafter.load(trimmed).vocab.save(tmp_path / "vocab")
    alone = json_of(run("inspect", tmp_path / "vocab", "--json"))
    assert (alone["kind"], alone["tokens"]) == ("sub-vocab", None)
    assert "give --target" in run("inspect", tmp_path / "vocab").stdout
    with_target = json_of(run("inspect", tmp_path / "vocab", "--target", models / "target", "--json"))
    assert with_target["target"] == {"name": "target", "n_rows": N_ROWS, "fits": True}
    assert with_target["tokens"]["hottest"]


def test_an_artifact_for_another_tokenizer_is_told(models: Path, trimmed: Path) -> None:
    result = run("inspect", trimmed, "--target", models / "german")
    assert result.exit_code == 1
    assert "another tokenizer" in result.stderr
    assert result.stdout == ""


def test_tokens_are_left_out_when_the_drafter_is_gone(models: Path, counts: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "drafter", tmp_path / "drafter")
    out = tmp_path / "t"
    assert run("trim", tmp_path / "drafter", "--tokens", counts, "--size", 290, "-o", out).exit_code == 0
    shutil.rmtree(tmp_path / "drafter")
    assert json_of(run("inspect", out, "--json"))["tokens"] is None


def test_model(models: Path) -> None:
    shown = json_of(run("inspect", models / "drafter", "--dtype", "float32", "--json"))
    assert shown["kind"] == "model"
    assert (shown["n_rows"], shown["n_tokenizer"], shown["max_length"]) == (N_ROWS, N_ENTRIES, CONTEXT)
    assert shown["head_bytes"] == N_ROWS * 32 * 4
    assert shown["tied"] is False
    assert shown["stop_tokens"] == [END]
    assert shown["head_share"] == pytest.approx(shown["head_bytes"] / shown["step_bytes"])
    text = run("inspect", models / "drafter").stdout
    assert "apart from the input embeddings" in text
    assert "As a drafter" in text


def test_model_against_a_target(models: Path) -> None:
    fits = json_of(run("inspect", models / "drafter", "--target", models / "target", "--json"))
    assert fits["target"]["n_shared"] == N_ENTRIES
    refused = run("inspect", models / "german", "--target", models / "target")
    assert refused.exit_code == 1
    assert "different tokenizers" in refused.stderr


@pytest.mark.parametrize(
    ("name", "content", "needle"),
    [
        ("map.xyz", "x", "ends in .xyz"),
        ("map", "x", "ends in nothing"),
        ("other.json", '{"kind": "recipe"}', "not a benchmark result"),
        ("cut.json", '{"kind": "outlex-ben', "not a benchmark result"),
    ],
)
def test_other_files_are_refused_with_what_is_recognised(tmp_path: Path, name: str, content: str, needle: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    result = run("inspect", tmp_path / name)
    assert result.exit_code in (1, 2)
    for part in (needle, "outlex trim", "outlex bench", ".gguf"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr


def test_an_empty_directory_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    assert "without config.json" in run("inspect", tmp_path).stderr
    unknown = run("inspect", "smol136")
    assert unknown.exit_code == 1
    assert "did you mean smol135" in unknown.stderr


def test_a_kind_of_the_future_is_refused(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a", kind="crystal-ball", config={}, tensors={})
    result = run("inspect", tmp_path / "a")
    assert result.exit_code == 1
    assert "crystal-ball" in result.stderr


def test_a_damaged_artifact_is_told(trimmed: Path, tmp_path: Path) -> None:
    shutil.copytree(trimmed, tmp_path / "t")
    (tensors,) = (tmp_path / "t").glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-100])
    result = run("inspect", tmp_path / "t")
    assert result.exit_code == 1
    assert "truncated or damaged" in result.stderr
    (tmp_path / "t" / "outlex.json").write_text(json.dumps({"kind": "x"}), encoding="utf-8")
    assert run("inspect", tmp_path / "t").exit_code == 1
