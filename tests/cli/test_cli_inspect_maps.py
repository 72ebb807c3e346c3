"""`outlex inspect` on token maps: what it says, in JSON and in words, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_builders import END, N_ENTRIES, N_ROWS, json_of, run
from map_files import GOOD, RANKED, bombs, eagle3, gguf_drafter, offsets, torch_file
from transformers import AutoTokenizer

from outlex.calibration.stats import TokenStats
from outlex.drafters import TrimmedDrafter
from outlex.vocab.tokenizer_facts import facts_of, piece_bytes


@pytest.fixture(scope="module")
def hot(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token map of SGLang without the end token and without the bytes of other scripts."""
    data = piece_bytes(facts_of(AutoTokenizer.from_pretrained(models / "target")))
    lost = {i for i, spelled in enumerate(data) if spelled is None or (len(spelled) == 1 and spelled[0] >= 0x80)}
    ids = [i for i in range(N_ENTRIES - 1, -1, -1) if i not in lost]
    return torch_file(tmp_path_factory.mktemp("hot") / "hot.pt", ids)


@pytest.fixture(scope="module")
def stats(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts: 3 of 4 tokens are letters, the others half of an umlaut."""
    tokenizer = AutoTokenizer.from_pretrained(models / "target")
    facts, vocab = facts_of(tokenizer), tokenizer.get_vocab()
    counts = torch.zeros(1, facts.n_entries, dtype=torch.int64)
    counts[0, vocab["e"]], counts[0, vocab["Ã"]] = 30, 10
    path = tmp_path_factory.mktemp("stats") / "stats.safetensors"
    TokenStats(
        domains=("text",),
        counts=counts,
        documents=(counts > 0).long(),
        n_documents=(1,),
        weights=(1.0,),
        tokenizer_fingerprint=facts.fingerprint,
    ).save(path)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_every_format_is_described(name: str, tmp_path: Path) -> None:
    file_name, ids, make = GOOD[name]
    path = make(tmp_path / file_name)
    shown = json_of(run("inspect", path, "--json"))
    assert (shown["kind"], shown["format"], shown["n_draft"]) == ("token-map", name, len(ids))
    assert shown["order"] == ("ascending" if ids == sorted(ids) else "ranked")
    assert shown["must_keep"] is shown["coverage"] is shown["target"] is None
    assert [engine["engine"].split()[0] for engine in shown["engines"]] == [
        "vLLM",
        "SGLang",
        "llama.cpp",
        "transformers",
    ]
    text = run("inspect", path).stdout
    assert name in text
    assert "not run" in text


def test_missing_bytes_and_the_end_token_by_name(models: Path, hot: Path, stats: Path) -> None:
    shown = json_of(run("inspect", hot, "--tokenizer", models / "target", "--stats", stats, "--json"))
    stop = shown["must_keep"]["reasons"]["stop"]
    assert (stop["n"], stop["n_missing"], stop["missing"][0]["name"]) == (1, 1, END)
    assert shown["must_keep"]["reasons"]["byte"]["n_missing"] > 100
    assert shown["coverage"]["total"] == pytest.approx(0.75)
    assert len(shown["tokens"]["first"]) == 12
    text = run("inspect", hot, "--tokenizer", models / "target", "--stats", stats).stdout
    for needle in (END, "byte 0x", "0.7500 of the counted tokens", "can never be drafted", "STANDALONE"):
        assert needle in text


def test_fits_and_does_not_fit(models: Path, hot: Path, tmp_path: Path) -> None:
    shown = json_of(run("inspect", hot, "--target", models / "target", "--json"))
    assert shown["target"]["verdict"] == "unproven"
    proven = json_of(run("inspect", hot, "--target", models / "target", "--tokenizer", models / "drafter", "--json"))
    assert (proven["target"]["verdict"], proven["target"]["n_rows"]) == ("yes", N_ROWS)
    foreign = run("inspect", hot, "--target", models / "german", "--tokenizer", models / "target")
    assert foreign.exit_code == 1
    assert "NO: german" in foreign.stdout
    padding = run("inspect", torch_file(tmp_path / "map.pt", [1, N_ENTRIES + 1]), "--target", models / "target")
    assert padding.exit_code == 1
    assert "padding of the head" in padding.stdout
    assert run("inspect", torch_file(tmp_path / "far.pt", [N_ROWS]), "--target", models / "target").exit_code == 1


def test_an_ambiguous_map_is_refused_with_what_settles_it(tmp_path: Path) -> None:
    path = torch_file(tmp_path / "d2t.pt", torch.tensor([0, 2, 5]))
    refused = run("inspect", path)
    assert refused.exit_code == 1
    assert "--read-as" in refused.stderr
    assert json_of(run("inspect", path, "--read-as", "offsets", "--json"))["spelling"] == "offsets"
    assert json_of(run("inspect", path, "--n-target", 6, "--json"))["spelling"] == "absolute"


def test_traps_of_a_file_are_printed(tmp_path: Path) -> None:
    assert "add the row" in run("inspect", eagle3(tmp_path / "d", values=torch.tensor(RANKED))).stdout
    refused = run("inspect", gguf_drafter(tmp_path / "d.gguf", values=offsets(RANKED).tolist()))
    assert refused.exit_code == 1
    assert "llama.cpp would take them as ids" in refused.stderr


def test_no_file_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for path in bombs(tmp_path / "bombs", mark).values():
        refused = run("inspect", path)
        assert refused.exit_code == 1
        assert "Traceback" not in refused.stderr
        assert not mark.exists()


def test_an_artifact_is_described_as_a_map_too(models: Path, trimmed: Path, stats: Path) -> None:
    shown = json_of(run("inspect", trimmed, "--stats", stats, "--json"))
    assert shown["kind"] == "trimmed-drafter"
    assert shown["map"]["format"] == "outlex"
    assert 0 < shown["map"]["coverage"]["total"] <= 1
    assert shown["map"]["coverage"]["tokenizer_is_proven"]
    assert json_of(run("inspect", trimmed, "--json"))["map"] is None
    assert "of the counted tokens" in run("inspect", trimmed, "--stats", stats, "--tokenizer", models / "target").stdout


def test_a_vocabulary_alone_reads_the_same_everywhere(trimmed: Path, tmp_path: Path) -> None:
    vocab = TrimmedDrafter.load(trimmed).vocab
    vocab.save(tmp_path / "vocab")
    result = json_of(run("diff", tmp_path / "vocab", trimmed, "--json"))
    assert result["identical"]


@pytest.mark.parametrize(
    "options", [("--stats", "x"), ("--tokenizer", "x"), ("--read-as", "offsets"), ("--n-target", "5")]
)
def test_options_for_maps_have_no_meaning_for_models(options: tuple[str, str], models: Path) -> None:
    refused = run("inspect", models / "drafter", *options)
    assert refused.exit_code == 2
    assert options[0] in refused.stderr
