"""`outlex fit`: from traces to an artifact whose proposal generate, bench, forecast and inspect know of."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_builders import json_of, run, traced_pair

from outlex.drafters import TrimmedDrafter


@pytest.fixture(scope="module")
def traces(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_pair(models, tmp_path_factory.mktemp("fit"), n_prompts=16, max_new_tokens=12)


@pytest.fixture(scope="module")
def fitted(traces: Path, trimmed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "head"
    result = run("fit", "--traces", traces, "--trimmed", trimmed, "--proposal", "cold-row", "-o", out)
    assert result.exit_code == 0, result.stderr
    for needle in ("cold-row, Jensen + tli", "95 % interval", "chosen:", "because", f"{out}", "--trimmed"):
        assert needle in result.stdout
    return out


def test_report_and_artifact_agree(traces: Path, trimmed: Path, tmp_path: Path) -> None:
    out = tmp_path / "h"
    arguments = ("fit", "--traces", traces, "--trimmed", trimmed, "-o", out, "--limit", 14, "--json")
    body = json_of(run(*arguments))
    saved = TrimmedDrafter.load(out)
    assert saved.stored is not None
    assert body["head"] == saved.describe()
    assert body["chosen"] == saved.stored.provenance["chosen"]
    assert body["trials"] == saved.stored.provenance["trials"]
    assert sum(body["prompts"].values()) == 14
    assert {trial["name"].split(",")[0] for trial in body["trials"]} == {
        *("tli", "rdk-exact", "rdk-first-order", "sparse-kernel", "cold-row", "learned")
    }  # 40 cold rows are too few for 64 clusters
    assert f"--trimmed {out}" in body["next"]
    assert json_of(run(*arguments))["chosen"] == body["chosen"]  # an artifact of its kind is replaced


def test_the_other_commands_know_of_it(fitted: Path, traces: Path, models: Path) -> None:
    shown = json_of(run("inspect", fitted, "--json"))["proposal"]
    stored = TrimmedDrafter.load(fitted).stored
    assert stored is not None
    assert shown["name"] == stored.name
    text = run("inspect", fitted).stdout
    assert stored.name in text
    assert str(shown["reason"])[:30] in text
    pair = ("--target", models / "target", "--drafter", models / "drafter")
    short = ("-p", "the mill", "--max-new-tokens", 4, "--dtype", "float32", "--json")
    assert json_of(run("generate", *pair, "--trimmed", fitted, *short))["proposal"] == stored.name
    assert (
        json_of(run("generate", *pair, "--trimmed", fitted, "--proposal", "vanilla", *short))["proposal"] == "vanilla"
    )
    assert stored.name in json_of(run("forecast", "--traces", traces, "--trimmed", fitted, "--json"))["proposal"]


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--proposal", "rdk"], 2, "rdk"),
        (["--temperature", "0"], 2, "decode greedily"),
        (["--temperature", "1", "--temperature", "1"], 2, "each --temperature once"),
        (["--limit", "5"], 2, "trace more prompts"),
        (["--traces", "nowhere"], 1, "outlex trace"),
        (["--trimmed", "nowhere"], 1, "check the path"),
        (["-o", "{models}"], 1, "another output directory"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used_are_explained(
    traces: Path, trimmed: Path, models: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(models=models) for argument in arguments]
    result = run("fit", "--traces", traces, "--trimmed", trimmed, "-o", tmp_path / "h", *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "h").exists()


def test_a_head_of_another_drafter_is_refused(models: Path, counts: Path, traces: Path, tmp_path: Path) -> None:
    other = run("trim", models / "other", "--tokens", counts, "--size", 290, "-o", tmp_path / "other")
    assert other.exit_code == 0, other.stderr
    result = run("fit", "--traces", traces, "--trimmed", tmp_path / "other", "-o", tmp_path / "h")
    assert result.exit_code == 1
    assert "trim this one anew" in result.stderr
