"""`outlex count` and `outlex merge`: what they write, what they say, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_builders import json_of, run
from corpora import chat, write_jsonl

from outlex.calibration.stats import TokenStats


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "chats.jsonl",
        [chat("the river", "the mill"), {"text": "the town pays", "domain": "town"}, {"text": "the bread"}],
    )


def test_count_merge_and_trim_go_together(models: Path, corpus: Path, tmp_path: Path) -> None:
    first, second, both = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "both"))
    report = json_of(
        run("count", corpus, "--tokenizer", models / "target", "-o", first, "--weight", "town=3", "--json")
    )
    stats = TokenStats.load(first)
    assert report["n_tokens"] == sum(stats.n_tokens)
    assert list(report["domains"]) == list(stats.domains) == ["chats", "town"]
    assert report["domains"]["town"]["weight"] == 3.0
    assert report["n_skipped"] == 0
    assert not list(tmp_path.glob("*.partial"))
    other = write_jsonl(tmp_path / "b.jsonl", [{"text": "bread and bread"}])
    assert run("count", f"bread={other}", "--tokenizer", models / "target", "-o", second).exit_code == 0
    merged = json_of(run("merge", first, second, "--weight", "bread=0.5", "-o", both, "--json"))
    assert merged["n_parts"] == 2
    assert merged["n_tokens"] == report["n_tokens"] + sum(TokenStats.load(second).n_tokens)
    trimmed = json_of(run("trim", models / "drafter", "--tokens", both, "--size", 290, "-o", tmp_path / "t", "--json"))
    assert trimmed["coverage"] > 0.9
    assert trimmed["n_draft"] == 290


def test_the_texts_say_it(models: Path, corpus: Path, tmp_path: Path) -> None:
    with corpus.open("a", encoding="utf-8") as file:
        file.write("{\n")
    out = tmp_path / "out.safetensors"
    arguments = ("count", corpus, "--tokenizer", models / "target", "-o", out)
    stopped = run(*arguments)
    assert stopped.exit_code == 2
    assert "line 4: not JSON" in stopped.stderr
    assert not out.exists()
    result = run(*arguments, "--on-error", "skip", "--weight", "nobody=2")
    assert result.exit_code == 0, result.stderr
    for needle in ("3 documents", "domain town", "weight 1", "outlex trim"):
        assert needle in result.stdout
    for needle in ("going on from", "1 not JSON", "chats.jsonl, line 4", "no record is of this domain"):
        assert needle in result.stderr
    merged = run("merge", out, "-o", tmp_path / "merged")
    assert "1 counting runs" in merged.stdout


def test_an_output_that_exists_is_only_replaced_on_demand(models: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ("count", corpus, "--tokenizer", models / "target", "-o", out)
    out.write_text("dear", encoding="utf-8")
    refused = run(*arguments)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert out.read_text(encoding="utf-8") == "dear"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert sum(TokenStats.load(out).n_tokens) > 0
    assert "--overwrite" in run("merge", out, "-o", out).stderr
    assert "is a folder" in run("count", corpus, "--tokenizer", models / "target", "-o", tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["{tmp}/nowhere.jsonl"], 2, "check the path"),
        (["{corpus}", "--tokenizer", "{models}/nowhere"], 1, "no such model"),
        (["{corpus}", "--tokenizer", "{models}/base"], 2, "--chats content"),
        (["{corpus}", "--weight", "town"], 2, "DOMAIN=W"),
        (["{corpus}", "--weight", "town=1", "--weight", "town=2"], 2, "DOMAIN=W"),
        (["{corpus}", "--text-field", "body"], 2, "--text-field"),
        (["hub:nobody/nothing"], 1, "cannot be listed"),
    ],
)
def test_what_cannot_be_counted_is_explained(
    models: Path, corpus: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(tmp=tmp_path, corpus=corpus, models=models) for argument in arguments]
    if "--tokenizer" not in filled:
        filled += ["--tokenizer", str(models / "target")]
    result = run("count", *filled, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == code, result.stderr
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_merge_explains_what_does_not_fit(models: Path, corpus: Path, tmp_path: Path) -> None:
    one, other, out = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    assert run("count", corpus, "--tokenizer", models / "target", "-o", one).exit_code == 0
    assert run("count", corpus, "--tokenizer", models / "german", "-o", other).exit_code == 0
    assert "different tokenizers" in run("merge", one, other, "-o", out).stderr
    assert "added twice" in run("merge", one, one, "-o", out).stderr
    (tmp_path / "junk").write_text(json.dumps({"1": 2}), encoding="utf-8")
    assert "count again" in run("merge", tmp_path / "junk", "-o", out).stderr
    assert not out.exists()
