"""`outlex trim --size auto --objective speed`: size, draft length and proposal from a forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_builders import json_of, run, traced_pair

from outlex.drafters import TrimmedDrafter


@pytest.fixture(scope="module")
def traced(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_pair(models, tmp_path_factory.mktemp("traced"), n_prompts=8, max_new_tokens=12)


def speed(models: Path, counts: Path, traced: Path, out: Path, *more: object) -> list[object]:
    given = ("--tokens", counts, "--size", "auto", "--objective", "speed", "--traces", traced, "--threads", 1)
    return [
        "trim",
        models / "drafter",
        *given,
        "--dtype",
        "float32",
        "--draft-len",
        2,
        "--draft-len",
        3,
        "-o",
        out,
        *more,
    ]


def test_the_best_setting_is_chosen_on_one_half_and_told_on_the_other(
    models: Path, counts: Path, traced: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    result = json_of(run(*speed(models, counts, traced, out, "--max-size", 290, "--json")))
    search, saved = result["size_search"], TrimmedDrafter.load(out).vocab
    assert saved.n_draft == result["n_draft"] == search["size"] <= 290
    assert saved.provenance["size_search"] == search
    assert search["draft_len"] in (2, 3)
    assert search["proposal"] in ("tli", "vanilla")
    assert search["goal"]["alpha"] == 0
    assert search["utility"] == search["reduction"]
    assert search["reduction"] == pytest.approx(1 - search["untrimmed"]["tokens_per_s"] / search["tokens_per_s"])
    assert search["tokens_per_s"] == max(point["tokens_per_s"] for point in search["pareto"])
    assert "measured here" in search["times"]
    told = search["held_out"]
    assert told["n_prompts"] == 4
    assert [(cell["domain"], cell["n_prompts"]) for cell in told["cells"]] == [(None, 4), ("a", 2), ("b", 2)]
    assert told["tokens_per_s"] == pytest.approx(told["cells"][0]["tokens_per_s"])
    assert told["tokens_per_s"] != search["tokens_per_s"]
    assert f"--target {models / 'target'} " in result["next"]
    assert f"--draft-len {search['draft_len']} --proposal {search['proposal']}" in result["next"]


def test_the_text_says_it_and_tpe_searches_too(models: Path, counts: Path, traced: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    more = ("--alpha", 0.5, "--min-size", 280, "--max-size", 285, "--proposal", "tli", "--search", "tpe", "--seed", 3)
    result = run(*speed(models, counts, traced, tmp_path / "t", *more))
    assert result.exit_code == 0, result.stderr
    for needle in (
        "draft length",
        "best 0.5·C + 0.5·R",
        "untrimmed at its best",
        "prompts that did not choose",
        "tpe, ",
        "Settings that nothing beats",
        "other half of the traces",
        "× untrimmed",
    ):
        assert needle in result.stdout
    search = TrimmedDrafter.load(tmp_path / "t").vocab.provenance["size_search"]
    assert 280 <= search["size"] <= 285
    assert (search["proposal"], search["method"], search["seed"]) == ("tli", "tpe", 3)


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--size", "auto", "--objective", "speed"], 2, "give the directory as --traces"),
        (["--size", "auto", "--objective", "speed", "--traces", "nowhere"], 1, "outlex trace"),
        (["--size", "auto", "--objective", "speed", "--traces", "{traced}", "--bench", "no.json"], 1, "no.json"),
        (["--size", "auto", "--traces", "{traced}"], 2, "give --objective speed"),
        (["--size", "280", "--traces", "{traced}"], 2, "--traces only make sense"),
        (
            ["--size", "auto", "--objective", "speed", "--traces", "{traced}", "--draft-len", "2", "--draft-len", "2"],
            2,
            "--draft-len names a value twice",
        ),
        (
            ["--size", "auto", "--objective", "speed", "--traces", "{traced}", "--tokens", "{traced}"],
            2,
            "trace other prompts",
        ),
    ],
)
def test_what_cannot_be_is_explained(
    models: Path, counts: Path, traced: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(traced=traced) for argument in arguments]
    given = ("--tokens", counts, "--dtype", "float32", "-o", tmp_path / "t")
    result = run("trim", models / "drafter", *given, *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "t").exists()


def test_traces_of_another_pair_are_refused(models: Path, counts: Path, traced: Path, tmp_path: Path) -> None:
    arguments = speed(models, counts, traced, tmp_path / "t")
    arguments[1] = models / "other"
    other = run(*arguments)
    assert other.exit_code == 1
    assert "made with another drafter" in other.stderr
    assert "outlex trace" in other.stderr
    target = run(*speed(models, counts, traced, tmp_path / "t", "--target", models / "other"))
    assert target.exit_code == 1
    assert "made with another target" in target.stderr
    assert not (tmp_path / "t").exists()
