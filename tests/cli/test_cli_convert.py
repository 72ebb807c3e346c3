"""`outlex convert`: formats, refusals, and cutting a drafter again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_builders import N_ENTRIES, N_ROWS, json_of, run
from map_files import ASCENDING, RANKED, WIDTH, bombs, eagle3, speculators, torch_file, write_json
from transformers import AutoTokenizer

from outlex.cli.convert import FormatName
from outlex.formats import WRITERS, read_map
from outlex.vocab.must_keep import must_keep
from outlex.vocab.sub_vocab import SubVocab

SUFFIX = {
    "sglang-token-map": ".pt",
    "eagle3-d2t": ".safetensors",
    "medusa-token-map": ".safetensors",
    "gguf": ".gguf",
    "token-ids": ".json",
}


def test_the_option_names_every_writer() -> None:
    assert {name.value for name in FormatName} == set(WRITERS)


@pytest.mark.parametrize("to", [name.value for name in FormatName])
def test_a_drafter_to_every_format(to: str, models: Path, tmp_path: Path) -> None:
    output = tmp_path / f"out{SUFFIX.get(to, '')}"
    arguments = ("--to", to, "--tokenizer", models / "target", "-o", output)
    result = json_of(run("convert", eagle3(tmp_path / "d"), *arguments, "--json"))
    assert (result["format"], result["n_draft"]) == (to, len(RANKED))
    assert read_map(output).ids.tolist() == (ASCENDING if to == "speculators" else RANKED)
    assert result["order_kept"] == (to != "speculators")
    assert result["n_must_keep_missing"] > 200


def test_the_walk_of_the_docs(models: Path, tmp_path: Path) -> None:
    ascii_ids = list(range(94, 0, -1))
    hot = torch_file(tmp_path / "hot.pt", ascii_ids)
    looked = run("inspect", hot, "--tokenizer", models / "target")
    assert "byte 0x" in looked.stdout
    output = tmp_path / "map.safetensors"
    done = run("convert", hot, "--to", "eagle3-d2t", "--tokenizer", models / "target", "-o", output)
    assert done.exit_code == 0, done.stderr
    assert "read back and compared" in done.stdout
    found = read_map(output)
    assert (found.ids.tolist(), found.n_target) == (ascii_ids, N_ROWS)


def test_an_artifact_keeps_its_must_keep_tokens(models: Path, tmp_path: Path) -> None:
    ids = write_json(tmp_path / "ids.json", list(range(N_ENTRIES - 1, -1, -1)))
    arguments = ("--to", "outlex", "--tokenizer", models / "target", "-o", tmp_path / "v")
    assert run("convert", ids, *arguments).exit_code == 0
    vocab = SubVocab.load(tmp_path / "v")
    assert vocab.must_keep_ids == must_keep(AutoTokenizer.from_pretrained(models / "target")).ids
    assert vocab.n_target == N_ROWS
    back = run("convert", tmp_path / "v", "--to", "sglang-token-map", "-o", tmp_path / "back.pt")
    assert back.exit_code == 0, back.stderr
    assert torch.load(tmp_path / "back.pt", weights_only=True) == list(range(N_ENTRIES - 1, -1, -1))
    foreign = run(
        "convert", tmp_path / "v", "--to", "gguf", "--tokenizer", models / "german", "-o", tmp_path / "x.gguf"
    )
    assert foreign.exit_code == 1
    assert "another tokenizer" in foreign.stderr
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ((), "nothing to convert to"),
        (("--to", "gguf", "-o", "map.bin"), "end in .gguf"),
        (("--to", "eagle3-d2t", "-o", "map.safetensors"), "--n-target"),
        (("--to", "outlex", "-o", "v"), "--tokenizer"),
        (("--to", "token-ids", "-o", "ids.json", "--size", "3"), "--retrim"),
        (("--retrim", "map.pt"), "--tokenizer"),
        (("--retrim", "nothing", "--tokenizer", "x"), "no such token list"),
    ],
)
def test_refusals(arguments: tuple[str, ...], needle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch_file(tmp_path / "map.pt", list(RANKED))
    output = () if "-o" in arguments else ("-o", "out")
    refused = run("convert", "map.pt", *arguments, *output)
    assert refused.exit_code == 2
    assert needle in refused.stderr
    assert refused.stdout == ""
    assert [file.name for file in tmp_path.iterdir()] == ["map.pt"]


def test_an_output_is_replaced_only_on_request(tmp_path: Path) -> None:
    source, output = write_json(tmp_path / "a.json", RANKED), tmp_path / "b.pt"
    output.write_bytes(b"something else")
    refused = run("convert", source, "--to", "sglang-token-map", "-o", output)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert output.read_bytes() == b"something else"
    assert run("convert", source, "--to", "sglang-token-map", "-o", output, "--overwrite").exit_code == 0
    assert read_map(output).ids.tolist() == RANKED


def test_the_width_can_be_given(tmp_path: Path) -> None:
    output = tmp_path / "map.safetensors"
    arguments = ("--to", "eagle3-d2t", "-o", output)
    done = json_of(run("convert", torch_file(tmp_path / "m.pt", list(RANKED)), *arguments, "--n-target", 64, "--json"))
    assert done["n_target"] == 64
    small = run("convert", tmp_path / "m.pt", *arguments, "--n-target", 20, "--overwrite")
    assert small.exit_code == 1
    assert read_map(output).n_target == 64


def test_hostile_files_are_not_converted(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for path in bombs(tmp_path / "bombs", mark).values():
        assert run("convert", path, "--to", "token-ids", "-o", tmp_path / "ids.json").exit_code == 1
        assert not mark.exists()
    assert not (tmp_path / "ids.json").exists()


# --- cutting a drafter ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter with a row for each token of the target."""
    return eagle3(tmp_path_factory.mktemp("whole") / "d", list(range(N_ENTRIES)), width=N_ROWS)


def test_retrim_by_a_map_keeps_what_must_be_kept(models: Path, whole: Path, tmp_path: Path) -> None:
    hot = torch_file(tmp_path / "hot.pt", [319, 318, 317])
    n_must = len(must_keep(AutoTokenizer.from_pretrained(models / "target")).ids)
    arguments = ("--retrim", hot, "--tokenizer", models / "target")
    done = json_of(run("convert", whole, *arguments, "-o", tmp_path / "all", "--json"))
    assert done["n_must_keep_missing"] == 0
    assert (done["n_before"], done["n_draft"], done["n_wanted_without_row"]) == (N_ENTRIES, n_must + 3, 0)
    sized = json_of(run("convert", whole, *arguments, "--size", n_must + 1, "-o", tmp_path / "one", "--json"))
    assert sized["n_draft"] == n_must + 1
    assert 319 in read_map(tmp_path / "one").ids.tolist()
    assert 318 not in read_map(tmp_path / "one").ids.tolist()
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["draft_vocab_size"] == n_must + 1
    refused = run("convert", whole, *arguments, "--size", 5, "-o", tmp_path / "small")
    assert refused.exit_code == 2
    assert "must-keep" in refused.stderr
    assert not (tmp_path / "small").exists()


def test_retrim_by_counts(models: Path, whole: Path, counts: Path, tmp_path: Path) -> None:
    arguments = ("--retrim", counts, "--tokenizer", models / "target", "--size", 290, "-o", tmp_path / "e")
    done = run("convert", whole, *arguments)
    assert done.exit_code == 0, done.stderr
    assert "290" in done.stdout
    assert read_map(tmp_path / "e").n_draft == 290


def test_retrim_keeps_the_format(models: Path, tmp_path: Path) -> None:
    path = speculators(tmp_path / "d")
    arguments = ("--retrim", write_json(tmp_path / "ids.json", RANKED[:3]), "--tokenizer", models / "target")
    refused = run("convert", path, *arguments, "--to", "gguf", "-o", tmp_path / "e")
    assert refused.exit_code == 2
    assert "keeps the drafter's own format" in refused.stderr
    done = json_of(run("convert", path, *arguments, "--to", "speculators", "-o", tmp_path / "e", "--json"))
    assert done["format"] == "speculators"
    assert done["n_target"] == WIDTH
    again = run("convert", path, *arguments, "-o", tmp_path / "e", "--overwrite")
    assert again.exit_code == 1
    assert "never replaced" in again.stderr


def test_help_has_examples() -> None:
    text = run("convert", "--help").stdout
    assert "outlex convert" in text
    assert "--json" in text
