"""`outlex trim`: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_builders import END, N_ENTRIES, N_ROWS, json_of, run

from outlex.drafters import TrimmedDrafter


def test_the_report_agrees_with_the_artifact(models: Path, counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "trimmed"
    arguments = ("trim", models / "drafter", "--tokens", counts, "--size", 290, "--rank", "counts", "-o", out)
    report = json_of(run(*arguments, "--target", models / "target", "--json"))
    saved = TrimmedDrafter.load(out)
    assert saved.vocab.n_draft == report["n_draft"] == 290
    assert saved.vocab.fingerprint == report["fingerprint"]
    assert saved.base_source == str(models / "drafter")
    assert report["n_full"] == report["n_target"] == N_ROWS
    assert report["head_bytes"]["after"] == saved.linear.n_bytes
    assert report["head_bytes"]["after"] * N_ROWS == report["head_bytes"]["before"] * 290
    assert report["n_must_keep"]["byte"] == 256
    assert report["n_must_keep"]["stop"] == 1
    kept = set(saved.vocab.draft_to_target.tolist())
    wanted = {int(i): n for i, n in json.loads(counts.read_text(encoding="utf-8")).items()}
    assert report["coverage"] == pytest.approx(sum(n for i, n in wanted.items() if i in kept) / sum(wanted.values()))
    ranked_or_must = set(wanted) | set(saved.vocab.must_keep_ids)
    assert report["selection"]["n_filled"] == len(kept - ranked_or_must)
    assert f"--target {models / 'target'}" in report["next"]
    assert str(out) in report["next"]


def test_the_text_says_the_same(models: Path, counts: Path, tmp_path: Path) -> None:
    result = run("trim", models / "drafter", "--tokens", counts, "--size", 290, "-o", tmp_path / "t")
    assert result.exit_code == 0
    for needle in (
        f"290 of {N_ROWS}",
        "byte 256",
        "rows filled",
        "coverage",
        "of the counts",
        "outlex generate --target TARGET",
    ):
        assert needle in result.stdout


def test_a_list_without_counts_has_no_coverage(models: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("300\n301\n", encoding="utf-8")
    arguments = (
        "trim",
        models / "drafter",
        "--tokens",
        tmp_path / "ids.txt",
        "--size",
        290,
        "-o",
        tmp_path / "t",
    )
    assert json_of(run(*arguments, "--json"))["coverage"] is None
    assert "unknown" in run(*arguments).stdout


def test_keep_takes_ids_pieces_and_text(models: Path, counts: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models / "drafter")
    pieces = {piece: i for piece, i in tokenizer.get_vocab().items() if i % 2 and i > 290}
    piece, other, *_, last = sorted(pieces, key=lambda p: -pieces[p])
    text = tokenizer.decode([pieces[other]])
    out = tmp_path / "t"
    result = run(
        *("trim", models / "drafter", "--tokens", counts, "--size", 270, "-o", out),
        *("--keep", piece, "--keep", text, "--keep", pieces[last]),
    )
    assert result.exit_code == 0, result.stderr
    assert {pieces[piece], pieces[other], pieces[last]} <= set(TrimmedDrafter.load(out).vocab.draft_to_target.tolist())


def test_an_artifact_is_replaced_and_anything_else_is_not(models: Path, counts: Path, tmp_path: Path) -> None:
    out, foreign = tmp_path / "t", tmp_path / "foreign"
    for size in (290, 280):
        assert run("trim", models / "drafter", "--tokens", counts, "--size", size, "-o", out).exit_code == 0
    assert TrimmedDrafter.load(out).vocab.n_draft == 280
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear", encoding="utf-8")
    # a model that does not exist: the place is refused before anything is loaded
    result = run("trim", "nobody", "--tokens", counts, "--size", 290, "-o", foreign)
    assert result.exit_code == 1
    assert "letter.txt" in result.stderr
    assert "-o" in result.stderr
    assert [path.name for path in foreign.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("size", [0, -5, 100, N_ROWS, 10**9])
def test_impossible_sizes_name_the_possible_ones(models: Path, counts: Path, tmp_path: Path, size: int) -> None:
    result = run("trim", models / "drafter", "--tokens", counts, "--size", size, "-o", tmp_path / "t")
    assert result.exit_code == 2
    assert "choose a --size from 2" in result.stderr
    assert f"to {N_ENTRIES}" in result.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("content", "code", "needle"),
    [
        (None, 2, "no such token list"),
        ("[1, 2, 2]", 2, "every id once"),
        ("[1, 99999]", 2, "99999"),
        ("{", 1, "not JSON"),
        ("", 2, "nothing is ranked"),
        ("a river", 2, "line 1"),
    ],
)
def test_bad_token_lists_are_explained(
    models: Path, tmp_path: Path, content: str | None, code: int, needle: str
) -> None:
    path = tmp_path / "tokens.txt"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = run("trim", models / "drafter", "--tokens", path, "--size", 290, "-o", tmp_path / "t")
    assert result.exit_code == code
    assert needle in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "needle"),
    [
        (["--keep", "the river and the mill"], 2, "one token at a time"),
        (["--keep", "100000"], 2, "does not have"),
        (["--target", "{models}/german"], 1, "different tokenizers"),
        (["--target", "{models}/nowhere"], 1, "no such model"),
    ],
)
def test_what_does_not_fit_the_drafter_is_explained(
    models: Path, counts: Path, tmp_path: Path, arguments: list[str], code: int, needle: str
) -> None:
    filled = [argument.format(models=models) for argument in arguments]
    result = run("trim", models / "drafter", "--tokens", counts, "--size", 290, "-o", tmp_path / "t", *filled)
    assert result.exit_code == code
    assert needle in result.stderr
    assert not (tmp_path / "t").exists()


def test_a_place_below_a_file_is_refused(models: Path, counts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    result = run("trim", "nobody", "--tokens", counts, "--size", 290, "-o", tmp_path / "file" / "t")
    assert result.exit_code == 1
    assert "is a file" in result.stderr


def test_the_end_token_survives_the_smallest_trim(models: Path, counts: Path, tmp_path: Path) -> None:
    refused = run("trim", models / "drafter", "--tokens", counts, "--size", 1, "-o", tmp_path / "t")
    smallest = refused.stderr.partition("choose a --size from ")[2].split()[0]
    out = tmp_path / "t"
    assert run("trim", models / "drafter", "--tokens", counts, "--size", smallest, "-o", out).exit_code == 0
    from transformers import AutoTokenizer

    end_id = AutoTokenizer.from_pretrained(models / "drafter").convert_tokens_to_ids(END)
    assert end_id in TrimmedDrafter.load(out).vocab.draft_to_target.tolist()
