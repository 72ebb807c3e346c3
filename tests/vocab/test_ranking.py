"""Rankings: every accepted format, and everything that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.vocab.ranking import Ranking, count_tokens, rank_by_counts, read_ranking
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import facts_of

N = 10


def _read(tmp_path: Path, content: str | bytes, *, name: str = "ranking.txt") -> Ranking:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_ranking(path, n_tokenizer=N)


@pytest.mark.parametrize(
    ("content", "ids", "counts", "form"),
    [
        ("[3, 1, 9]", [3, 1, 9], None, "json ids"),
        (" \n[3,1,9]\n", [3, 1, 9], None, "json ids"),
        ("3\n1\n9\n", [3, 1, 9], None, "text ids"),
        ("3\r\n1\r\n\r\n9", [3, 1, 9], None, "text ids"),
        ("\ufeff3\n1\n9", [3, 1, 9], None, "text ids"),
        ('{"1": 5, "3": 7, "9": 5, "4": 0}', [3, 1, 9], {1: 5, 3: 7, 9: 5}, "json counts"),
        ("9\t5\n1\t5\n3\t7\n4\t0\n", [3, 1, 9], {1: 5, 3: 7, 9: 5}, "text counts"),
    ],
)
def test_formats(tmp_path: Path, content: str, ids: list[int], counts: dict[int, int] | None, form: str) -> None:
    ranking = _read(tmp_path, content)
    assert ranking.ids.tolist() == ids
    assert ranking.ids.dtype == torch.int64
    assert ranking.provenance["format"] == form
    assert ranking.provenance["source"] == "ranking.txt"
    assert ranking.provenance["n_ranked"] == 3
    assert len(ranking.provenance["sha256"]) == 64
    if counts is None:
        assert ranking.counts is None
    else:
        assert ranking.counts is not None
        assert ranking.counts.tolist() == [counts.get(index, 0) for index in range(N)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("n_padding", [0, 3])
def test_safetensors_counts(tmp_path: Path, dtype: torch.dtype, n_padding: int) -> None:
    counts = torch.zeros(N + n_padding, dtype=dtype)
    counts[3], counts[9], counts[1] = 7, 5, 5
    save_file({"counts": counts, "other": torch.zeros(2)}, tmp_path / "c.safetensors")
    ranking = read_ranking(tmp_path / "c.safetensors", n_tokenizer=N)
    assert ranking.ids.tolist() == [3, 1, 9]
    assert ranking.counts is not None
    assert ranking.counts.shape == (N,)
    assert ranking.counts.dtype == (torch.float64 if dtype.is_floating_point else torch.int64)


def test_a_sub_vocabulary_is_a_ranking(tmp_path: Path) -> None:
    vocab = SubVocab(
        draft_to_target=torch.tensor([3, 1, 9]),
        n_target=12,
        n_tokenizer=N,
        tokenizer_fingerprint="f" * 64,
        provenance={"from": "here"},
    )
    vocab.save(tmp_path / "a")
    ranking = read_ranking(tmp_path / "a", n_tokenizer=N)
    assert ranking.ids.tolist() == [3, 1, 9]
    assert ranking.provenance["ranking"] == {"from": "here"}
    assert ranking.provenance["sha256"] == vocab.fingerprint
    with pytest.raises(MismatchError, match="tokenizer of this target"):
        read_ranking(tmp_path / "a", n_tokenizer=N + 1)
    with pytest.raises(ArtifactError, match="check the path"):
        read_ranking(tmp_path, n_tokenizer=N)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "nothing is ranked"),
        ("\n \n", "nothing is ranked"),
        ("[]", "nothing is ranked"),
        ("{}", "nothing is ranked"),
        ('{"1": 0}', "nothing is ranked"),
        ("3\n1\nx\n", "line 3 is not an id"),
        ("3\n\n-1\n", "line 3 is not an id"),
        ("3\n10\n", "line 2 is not an id"),
        ("3\n1.0\n", "line 2 is not an id"),
        ("3\n1_0\n", "line 2 is not an id"),
        ("3\n\u0663\n", "line 2 is not an id"),
        ("3\n" + "1" * 5000, "line 2 is not an id"),
        ("3\n1 5\n", "line 2 is not an id"),
        ("3\n1\n3\n", "line 3 names an id a second time"),
        ("3\t1\n1\n", "line 2 has 1 fields"),
        ("3\n1\t4\n", "line 2 has 2 fields"),
        ("3\t1\t2\n", "line 1 has 3 fields"),
        ("3\t-1\n", "line 1 has no usable count"),
        ("3\t1.5\n", "line 1 has no usable count"),
        ("3\tnan\n", "line 1 has no usable count"),
        ("3\t\n", "line 1 has no usable count"),
        ("[3, 1, 1]", "entry 2 names an id a second time"),
        ("[3, -1]", "entry 1 is not an id"),
        ("[3, 10]", "entry 1 is not an id"),
        ("[3, 1.0]", "entry 1 is not an id"),
        ("[3, true]", "entry 1 is not an id"),
        ("[3, null]", "entry 1 is not an id"),
        ('[3, "1"]', "entry 1 is not an id"),
        ("[3, NaN]", "entry 1 is not an id"),
        ("[[3], [1]]", "entry 0 is not an id"),
        ('[{"1": 2}]', "entry 0 is not an id"),
        ('{"x": 1}', "key 'x' is not an id"),
        ('{"10": 1}', "key '10' is not an id"),
        ('{"-1": 1}', "key '-1' is not an id"),
        ('{"1": -1}', "key '1' has no usable count"),
        ('{"1": NaN}', "key '1' has no usable count"),
        ('{"1": Infinity}', "key '1' has no usable count"),
        ('{"1": 2.5}', "key '1' has no usable count"),
        ('{"1": true}', "key '1' has no usable count"),
        ('{"1": 99999999999999999999}', "key '1' has no usable count"),
        ('{"1": 2, "1": 3}', "key '1' names an id a second time"),
        ('{"1": 2, "01": 3}', "key '01' names an id a second time"),
    ],
)
def test_unusable_contents_are_located(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, content)
    assert message in str(caught.value)
    assert "ranking.txt" in str(caught.value)
    assert "correct the file" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "[3, 1"),
        ("a.json", "3\n1\n"),
        ("a.txt", "{'1': 2}"),
        ("a.txt", "[" * 100_000),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.safetensors", b""),
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
        ("a.safetensors", b"junk that is no safetensors"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str | bytes) -> None:
    with pytest.raises(ArtifactError, match=rf"(?s){name}.*next:"):
        _read(tmp_path, content, name=name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"(?s)nowhere\.txt.*check the path"):
        read_ranking(tmp_path / "nowhere.txt", n_tokenizer=N)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (torch.zeros(N - 1), "wrong dtype or shape"),
        (torch.zeros(1, N), "wrong dtype or shape"),
        (torch.ones(N, dtype=torch.bool), "wrong dtype or shape"),
        (torch.ones(N, dtype=torch.complex64), "wrong dtype or shape"),
        (torch.tensor([-1] + [1] * (N - 1)), "negative, NaN or infinite"),
        (torch.tensor([float("nan")] + [1.0] * (N - 1)), "negative, NaN or infinite"),
        (torch.tensor([float("inf")] + [1.0] * (N - 1)), "negative, NaN or infinite"),
        (torch.ones(N + 1), "in the padding"),
        (torch.zeros(N), "nothing is ranked"),
    ],
)
def test_unusable_safetensors_counts(tmp_path: Path, counts: torch.Tensor, message: str) -> None:
    save_file({"counts": counts}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=message):
        read_ranking(tmp_path / "c.safetensors", n_tokenizer=N)


def test_safetensors_without_counts(tmp_path: Path) -> None:
    save_file({"weights": torch.ones(N)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match=r"(?s)no tensor 'counts'.*weights"):
        read_ranking(tmp_path / "c.safetensors", n_tokenizer=N)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_rank_by_counts_agrees_with_sorting(counts: list[int]) -> None:
    wanted = sorted((index for index, count in enumerate(counts) if count), key=lambda i: (-counts[i], i))
    assert rank_by_counts(torch.tensor(counts)).tolist() == wanted
    assert rank_by_counts(torch.tensor(counts, dtype=torch.float32)).tolist() == wanted


def test_rank_by_counts_breaks_ties_by_id_at_150k() -> None:
    counts = torch.ones(151_936, dtype=torch.int64)
    counts[7], counts[9] = 2, 0
    ids = rank_by_counts(counts)
    assert ids[:3].tolist() == [7, 0, 1]
    assert ids.numel() == 151_935
    assert bool((ids[1:].diff() > 0).all())


@pytest.mark.parametrize(
    "counts",
    [
        torch.tensor([1, -1]),
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, float("inf")]),
        torch.tensor([True]),
        torch.ones(2, 2),
        torch.tensor(1),
    ],
)
def test_bad_counts_cannot_be_ranked(counts: torch.Tensor) -> None:
    with pytest.raises(InputError, match="check how the counts were made"):
        rank_by_counts(counts)


def test_counting_agrees_with_one_text_at_a_time(byte_level: Any) -> None:
    texts = [f"text number {n}, <tool_call> again\n" for n in range(600)] + [""]
    n_tokenizer = facts_of(byte_level).n_entries
    wanted = torch.zeros(n_tokenizer, dtype=torch.int64)
    for text in texts:
        for index in byte_level(text, add_special_tokens=False)["input_ids"]:
            wanted[index] += 1
    counts = count_tokens(iter(texts), byte_level, n_tokenizer=n_tokenizer)
    assert torch.equal(counts, wanted)
    assert counts.dtype == torch.int64
    assert int(counts[byte_level.convert_tokens_to_ids("<tool_call>")]) == 600


def test_counting_nothing(byte_level: Any) -> None:
    assert count_tokens([], byte_level, n_tokenizer=5).tolist() == [0] * 5


def test_counting_refuses_what_is_no_text(byte_level: Any) -> None:
    with pytest.raises(InputError, match=r"pass \[text\]"):
        count_tokens("one string", byte_level, n_tokenizer=400)
    with pytest.raises(InputError, match="text field"):
        count_tokens([{"text": "a"}], byte_level, n_tokenizer=400)  # type: ignore[list-item]
    with pytest.raises(MismatchError, match="tokenizer of the target"):
        count_tokens(["<think>"], byte_level, n_tokenizer=100)


def test_a_ranking_goes_into_a_json_provenance(tmp_path: Path) -> None:
    assert json.loads(json.dumps(_read(tmp_path, "3\n1").provenance))["format"] == "text ids"
