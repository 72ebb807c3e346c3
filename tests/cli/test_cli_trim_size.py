"""`outlex trim --size auto`, sources of several kinds, and reporting on another split."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from cli_builders import N_ENTRIES, N_ROWS, json_of, run, traced_pair

from outlex.calibration.stats import TokenStats
from outlex.calibration.target_probs import target_probs
from outlex.calibration.traces import TraceSet
from outlex.drafters import TrimmedDrafter
from outlex.models import load_model
from outlex.models.output_head import output_head
from outlex.vocab.tokenizer_facts import facts_of


def save_stats(models: Path, path: Path, *, seed: int, model: str = "drafter") -> Path:
    """Counts of two domains that fall with the id; the must-keep tokens take 270 of the 320 entries."""
    tokenizer = load_model(models / model, progress=False).tokenizer
    generator = torch.Generator().manual_seed(seed)
    rates = 2000 / (torch.arange(N_ENTRIES) + 5.0)
    counts = torch.poisson(torch.stack((rates, rates.flip(0))), generator=generator).long()
    TokenStats(
        domains=("chat", "code"),
        counts=counts,
        documents=counts.clamp(max=9),
        n_documents=(9, 9),
        weights=(1.0, 0.5),
        tokenizer_fingerprint=facts_of(tokenizer).fingerprint,
    ).save(path)
    return path


@pytest.fixture(scope="module")
def stats(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stats(models, tmp_path_factory.mktemp("stats") / "stats.safetensors", seed=0)


@pytest.fixture(scope="module")
def other(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stats(models, tmp_path_factory.mktemp("other") / "other.safetensors", seed=1)


def auto(models: Path, stats: Path, out: Path, *more: object) -> list[object]:
    return ["trim", models / "drafter", "--tokens", stats, "--size", "auto", "-o", out, *more]


def test_the_best_size_is_found_recorded_and_explained(models: Path, stats: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    arguments = auto(models, stats, out, "--alpha", 0.2, "--min-coverage", 0.9, "--report-on", other)
    result = json_of(run(*arguments, "--json"))
    search = result["size_search"]
    saved = TrimmedDrafter.load(out).vocab
    assert saved.n_draft == result["n_draft"] == search["size"]
    assert search["goal"] == {"alpha": 0.2, "min_coverage": 0.9, "min_size": 1, "max_size": None}
    assert search["method"] == "closed form"
    assert search["cost"]["unit"] == "FLOPs"
    assert search["utility"] == pytest.approx(0.2 * search["coverage"] + 0.8 * search["reduction"])
    assert {"size", "coverage", "cost", "reduction"} == set(search["pareto"][0])
    assert search["size"] in [point["size"] for point in search["pareto"]]
    for rows in (result["domains"], result["reported_domains"]):
        assert [row["domain"] for row in rows] == ["chat", "code"]
        assert all(0 <= row["low"] <= row["coverage"] <= row["high"] <= 1 for row in rows)
    assert result["domains"] != result["reported_domains"]
    kept = set(saved.draft_to_target.tolist())
    assert result["dropped"]
    assert not kept & {token["id"] for token in result["dropped"]}
    assert result["dropped_by"] == "--report-on"
    provenance = saved.provenance
    assert provenance["size_search"] == search
    assert provenance["rank"] == "mixture"
    assert 0 < provenance["prior"]["share"] < 1
    assert provenance["sources"][0]["domains"]["code"]["weight"] == 0.5
    text = run(*arguments).stdout
    for needle in (
        "best 0.2·C + 0.8·R",
        "a row pays above",
        "nothing beats",
        "--report-on",
        "95 % interval",
        "matter most",
    ):
        assert needle in text


@pytest.mark.parametrize("objective", ["flops", "bytes", "latency"])
def test_every_objective_is_searched_exactly_and_by_tpe(
    models: Path, stats: Path, tmp_path: Path, objective: str
) -> None:
    found = {}
    for search in ("exact", "tpe"):
        more = ("--objective", objective, "--search", search, "--threads", 1, "--json")
        found[search] = json_of(run(*auto(models, stats, tmp_path / search, *more)))["size_search"]
    assert found["tpe"]["method"] == "tpe"
    assert found["tpe"]["n_trials"] >= 100
    assert found["exact"]["cost"]["unit"] == {"flops": "FLOPs", "bytes": "bytes", "latency": "seconds"}[objective]
    if objective == "latency":  # two measurements are never the same
        assert found["exact"]["cost"]["sizes"][-1] == N_ROWS
        assert "measured" in run(*auto(models, stats, tmp_path / "l", "--objective", "latency", "--threads", 1)).stdout
    else:
        assert found["tpe"]["utility"] == pytest.approx(found["exact"]["utility"], abs=1e-4)


def test_limits_hold_and_are_named(models: Path, stats: Path, tmp_path: Path) -> None:
    result = json_of(run(*auto(models, stats, tmp_path / "t", "--alpha", 1, "--max-size", 290, "--json")))
    assert result["n_draft"] == 290
    assert result["size_search"]["bound"] == "max_size"
    assert "held up by --min-size" in run(*auto(models, stats, tmp_path / "t", "--alpha", 0, "--min-size", 300)).stdout


def test_several_sources_are_mixed(models: Path, stats: Path, counts: Path, tmp_path: Path) -> None:
    arguments = ("trim", models / "drafter", "--tokens", stats, "--tokens", counts, "--size", 290, "-o", tmp_path / "t")
    result = json_of(run(*arguments, "--json"))
    assert [row["domain"] for row in result["domains"]] == ["chat", "code", "counts"]
    assert result["ranking"]["source"] == "stats.safetensors, counts.json"
    assert result["size_search"] is None


def test_tokens_that_look_like_markup_are_printed_as_they_are(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "counts.json"
    path.write_text(json.dumps({str(i): 5 for i in range(N_ENTRIES)}), encoding="utf-8")
    result = run("trim", models / "drafter", "--tokens", path, "--size", 280, "-o", tmp_path / "t")
    assert result.exit_code == 0, result.stderr
    lost = json_of(run("trim", models / "drafter", "--tokens", path, "--size", 280, "-o", tmp_path / "t", "--json"))
    assert all(repr(token["text"]) in result.stdout for token in lost["dropped"])


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["--size", "auto", "--min-coverage", "0.99999999", "--max-size", "280"], "the coverage of 280 rows"),
        (["--size", "auto", "--alpha", "2"], "alpha=2"),
        (["--size", "auto", "--max-size", "5"], "must-keep tokens"),
        (["--size", "290", "--alpha", "0.5"], "--alpha only make sense"),
        (["--size", "290", "--objective", "bytes"], "give --size auto"),
        (["--size", "many"], "give the rows to keep"),
        (["--size", "auto", "--objective", "beauty"], "beauty"),
        (["--size", "290", "--rank", "variance"], "outlex trace"),
        (["--size", "290", "--report-on", "nowhere"], "--report-on"),
    ],
)
def test_what_cannot_be_is_explained_and_nothing_is_written(
    models: Path, stats: Path, tmp_path: Path, arguments: list[str], needle: str
) -> None:
    result = run("trim", models / "drafter", "--tokens", stats, "-o", tmp_path / "t", *arguments)
    assert result.exit_code == 2
    assert needle in result.stderr
    assert not (tmp_path / "t").exists()


def test_a_list_without_counts_and_the_same_split_twice_are_refused(models: Path, stats: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("300\n301\n", encoding="utf-8")
    for tokens, more, needle in (
        (tmp_path / "ids.txt", (), "give --size a number"),
        (stats, ("--report-on", stats), "chosen by"),
        (stats, ("--report-on", tmp_path / "ids.txt"), "Coverage needs counts"),
    ):
        result = run(*auto(models, tokens, tmp_path / "t", *more))
        assert result.exit_code == 2
        assert needle in result.stderr
    assert not (tmp_path / "t").exists()


def test_statistics_of_another_tokenizer_are_refused(models: Path, tmp_path: Path) -> None:
    german = save_stats(models, tmp_path / "german.safetensors", seed=0, model="german")
    result = run(*auto(models, german, tmp_path / "t"))
    assert result.exit_code == 1
    assert "counted with another tokenizer" in result.stderr


def test_without_optuna_the_extra_is_named(
    models: Path, stats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = run(*auto(models, stats, tmp_path / "t", "--search", "tpe"))
    assert result.exit_code == 2
    assert "outlex[select]" in result.stderr


@pytest.fixture(scope="module")
def traces(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traced_pair(models, tmp_path_factory.mktemp("traces"), n_prompts=4, max_new_tokens=20)


def test_traces_rank_by_the_mean_probability_of_the_target_or_its_variance(
    models: Path, stats: Path, traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    fixed = ("trim", models / "drafter", "--tokens", traces, "--size", 285, "-o", out)
    by_mean = json_of(run(*fixed, "--rank", "counts", "--json"))
    loaded = load_model(models / "target", dtype="float32", progress=False)
    traced = TraceSet.load(traces)
    probs = target_probs(traced, output_head(loaded))
    vocab = TrimmedDrafter.load(out).vocab
    kept, must = set(vocab.draft_to_target.tolist()), set(vocab.must_keep_ids)
    others = [i for i in probs.mean[:N_ENTRIES].argsort(descending=True).tolist() if i not in must]
    assert kept - must == set(others[: 285 - len(must)])
    assert [row["domain"] for row in by_mean["domains"]] == ["a (traces)", "b (traces)"]
    assert sum(row["n_tokens"] for row in by_mean["domains"]) == len(traced)
    assert by_mean["ranking"]["sources"][0]["format"] == "traces"

    json_of(run(*fixed, "--rank", "variance", "--json"))
    by_variance = TrimmedDrafter.load(out).vocab.draft_to_target.tolist()
    others = [i for i in probs.variance[:N_ENTRIES].argsort(descending=True).tolist() if i not in must]
    assert set(by_variance) - must == set(others[: 285 - len(must)])

    mixed = json_of(run(*auto(models, stats, out, "--tokens", traces, "--json")))
    assert [row["domain"] for row in mixed["domains"]] == ["chat", "code", "a (traces)", "b (traces)"]
    reported = json_of(run(*auto(models, stats, out, "--report-on", traces, "--json")))["reported_domains"]
    assert [row["domain"] for row in reported] == ["a (traces)", "b (traces)"]


def test_traces_of_another_tokenizer_are_refused(models: Path, traces: Path, tmp_path: Path) -> None:
    result = run("trim", models / "german", "--tokens", traces, "--size", 290, "-o", tmp_path / "t")
    assert result.exit_code == 1
    assert "another tokenizer" in result.stderr
