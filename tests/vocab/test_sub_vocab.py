"""SubVocab: invariants, selection against a slow reference, and what comes back from disk."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outlex.artifact import read_artifact, write_artifact
from outlex.errors import ArtifactError, InputError, MismatchError, VocabError
from outlex.vocab.must_keep import MustKeep, must_keep
from outlex.vocab.sub_vocab import SubVocab
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

N_ENTRIES = 151_665
N_ROWS = 151_936


def _facts(n_entries: int, *, holes: frozenset[int] = frozenset(), mark: str = "") -> TokenizerFacts:
    from outlex.vocab.tokenizer_facts import _fingerprint

    pieces = tuple(None if index in holes else f"{mark}{index}" for index in range(n_entries))
    return TokenizerFacts(
        pieces=pieces,
        fingerprint=_fingerprint(pieces),
        special_ids=(),
        added_ids=(),
        eos_id=None,
        spelling="text",
    )


def _keep(*ids: int) -> MustKeep:
    return MustKeep(reasons={"extra": tuple(sorted(ids))})


def _vocab(ids: list[int] | Tensor, **changes: Any) -> SubVocab:
    values: dict[str, Any] = {"n_target": 12, "n_tokenizer": 10, "tokenizer_fingerprint": "f" * 64}
    tensor = ids if isinstance(ids, Tensor) else torch.tensor(ids, dtype=torch.int64)
    return SubVocab(draft_to_target=tensor, **(values | changes))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[TokenizerFacts, list[int], MustKeep, int]:
    """A tokenizer with holes, a ranking of some ids, must-keep ids and a head that may be short."""
    n_entries = draw(st.integers(2, 14))
    holes = draw(st.frozensets(st.integers(1, n_entries - 1), max_size=3))
    real = [index for index in range(n_entries) if index not in holes]
    ranking = draw(st.permutations(real))[: draw(st.integers(0, len(real)))]
    kept = draw(st.sets(st.sampled_from(real), max_size=4))
    n_target = draw(st.integers(max(1, n_entries - 2), n_entries + 3))
    return _facts(n_entries, holes=holes), list(ranking), _keep(*kept), n_target


def _slow_selection(facts: TokenizerFacts, ranking: list[int], kept: MustKeep, n_target: int, size: int) -> list[int]:
    real = [index for index, piece in enumerate(facts.pieces) if piece is not None and index < n_target]
    order = [index for index in ranking if index in real]
    order += [index for index in real if index not in order]
    must = [index for index in kept.ids if index in real]
    chosen = set(must)
    for index in order:
        if len(chosen) < size:
            chosen.add(index)
    return [index for index in order if index in chosen]


@given(case=rankings(), data=st.data())
def test_selection_agrees_with_the_slow_reference(
    case: tuple[TokenizerFacts, list[int], MustKeep, int], data: st.DataObject
) -> None:
    facts, ranking, kept, n_target = case
    largest = len(_slow_selection(facts, ranking, kept, n_target, facts.n_entries))
    smallest = max(1, sum(index < n_target for index in kept.ids))
    size = data.draw(st.integers(smallest, largest))
    vocab = SubVocab.from_ranking(
        ranking, size=size, facts=facts, n_target=n_target, must_keep=kept, provenance={"a": 1}
    )
    wanted = _slow_selection(facts, ranking, kept, n_target, size)
    assert vocab.draft_to_target.tolist() == wanted
    must = set(vocab.must_keep_ids)
    selection = vocab.provenance["selection"]
    assert vocab.provenance["a"] == 1
    assert selection["n_must_keep"] + selection["n_must_keep_outside_head"] == len(kept)
    assert selection["n_filled"] == len(set(wanted) - set(ranking) - must)
    # A smaller vocabulary is the same whether it is cut from this one or made from the ranking.
    smaller = data.draw(st.integers(smallest, size))
    again = SubVocab.from_ranking(ranking, size=smaller, facts=facts, n_target=n_target, must_keep=kept, provenance={})
    assert vocab.resized(smaller).fingerprint == again.fingerprint


@given(case=rankings(), data=st.data())
def test_save_and_load_give_it_back(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[TokenizerFacts, list[int], MustKeep, int],
    data: st.DataObject,
) -> None:
    facts, ranking, kept, n_target = case
    largest = len(_slow_selection(facts, ranking, kept, n_target, facts.n_entries))
    vocab = SubVocab.from_ranking(
        ranking,
        size=largest,
        facts=facts,
        n_target=n_target,
        must_keep=kept,
        provenance={"text": "é", "n": [1.5]},
    )
    directory = tmp_path_factory.mktemp("vocab") / "a"
    vocab.save(directory)
    loaded = SubVocab.load(directory)
    assert torch.equal(loaded.draft_to_target, vocab.draft_to_target)
    assert loaded.fingerprint == vocab.fingerprint
    for name in (
        "n_target",
        "n_tokenizer",
        "tokenizer_fingerprint",
        "must_keep_ids",
        "provenance",
        "n_draft",
    ):
        assert getattr(loaded, name) == getattr(vocab, name)
    loaded.check_tokenizer(facts)


def test_must_keep_takes_the_place_of_the_coldest() -> None:
    vocab = SubVocab.from_ranking(
        torch.tensor([7, 3, 5, 1]),
        size=4,
        facts=_facts(10),
        n_target=12,
        must_keep=_keep(9, 3),
        provenance={},
    )
    assert vocab.draft_to_target.tolist() == [7, 3, 5, 9]
    assert vocab.provenance["selection"] == {
        "n_must_keep": 2,
        "n_must_keep_outside_head": 0,
        "n_displaced": 1,
        "n_filled": 0,
    }


def test_a_short_ranking_is_filled_in_tokenizer_order() -> None:
    vocab = SubVocab.from_ranking([7], size=4, facts=_facts(10), n_target=12, must_keep=_keep(9), provenance={})
    assert vocab.draft_to_target.tolist() == [7, 0, 1, 9]
    assert vocab.provenance["selection"]["n_filled"] == 2
    assert vocab.must_keep_ids == (9,)


def test_ids_beyond_a_narrow_head_have_no_row() -> None:
    vocab = SubVocab.from_ranking([9, 2, 8], size=3, facts=_facts(10), n_target=9, must_keep=_keep(9), provenance={})
    assert vocab.draft_to_target.tolist() == [2, 8, 0]
    assert vocab.must_keep_ids == ()
    assert vocab.provenance["selection"]["n_must_keep_outside_head"] == 1


@pytest.mark.parametrize("size", [0, -1, 1, 11, 2.0, True, "4", None])
def test_impossible_sizes_say_what_is_possible(size: Any) -> None:
    with pytest.raises(InputError, match="from 2 to 10"):
        SubVocab.from_ranking([1], size=size, facts=_facts(10), n_target=12, must_keep=_keep(4, 5), provenance={})


@pytest.mark.parametrize("size", [0, -3, 1, 5, 4.0, True])
def test_impossible_new_sizes_say_what_is_possible(size: Any) -> None:
    with pytest.raises(InputError, match="from 2 to 4"):
        _vocab([4, 3, 2, 1], must_keep_ids=(1, 2)).resized(size)


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([1, 1], "keep the first place"),
        ([1, 10], "rank the tokens with the tokenizer"),
        ([-1], "rank the tokens with the tokenizer"),
        ([4], "rank the tokens with the tokenizer"),
        ([1.0, 2.0], "rank the tokens with the tokenizer"),
        ([True, False], "rank the tokens with the tokenizer"),
        (["a"], "rank the tokens with the tokenizer"),
        ([[1], [2]], "rank the tokens with the tokenizer"),
        ([[1], [2, 3]], "rank the tokens with the tokenizer"),
        (torch.tensor(3), "rank the tokens with the tokenizer"),
        ([2**70], "rank the tokens with the tokenizer"),
        (None, "rank the tokens with the tokenizer"),
    ],
)
def test_bad_rankings_are_refused(ranking: Any, message: str) -> None:
    facts = _facts(10, holes=frozenset({4}))
    with pytest.raises(VocabError, match=message):
        SubVocab.from_ranking(ranking, size=3, facts=facts, n_target=12, must_keep=_keep(), provenance={})


def test_resizing_keeps_order_and_must_keep() -> None:
    vocab = _vocab([4, 3, 9, 1, 2], must_keep_ids=(2, 9))
    assert vocab.resized(5) is vocab
    assert vocab.resized(3).draft_to_target.tolist() == [4, 9, 2]
    assert vocab.resized(2).draft_to_target.tolist() == [9, 2]
    assert vocab.resized(3).provenance["resized_from"] == 5


@pytest.mark.parametrize(
    ("ids", "changes", "message"),
    [
        ([], {}, "or is empty"),
        ([1, 1], {}, "repeats ids"),
        ([-1, 1], {}, "out of range"),
        ([1, 12], {}, "out of range"),
        ([1, 10], {}, "in the padding"),
        ([1, 9], {"n_target": 9}, "out of range"),
        (torch.tensor([1, 2], dtype=torch.int32), {}, "wrong dtype"),
        (torch.tensor([1.0]), {}, "wrong dtype"),
        (torch.tensor([[1]]), {}, "wrong dtype"),
        (torch.tensor(1), {}, "wrong dtype"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), {}, "wrong dtype"),
        ([1, 2], {"must_keep_ids": (2, 3)}, r"1 missing, for example \[3\]"),
        ([1, 2], {"n_target": 12.0}, "whole numbers"),
        ([1, 2], {"n_tokenizer": True}, "whole numbers"),
        ([1, 2], {"provenance": {"x": float("nan")}}, "not a JSON object"),
        ([1, 2], {"provenance": {"x": torch.ones(1)}}, "not a JSON object"),
        ([1, 2], {"provenance": 3}, "not a JSON object"),
    ],
)
def test_broken_invariants_are_refused(ids: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(VocabError, match=message) as caught:
        _vocab(ids, **changes)
    assert caught.value.next_step is not None


def test_the_tensor_is_copied() -> None:
    ids = torch.tensor([3, 1])
    vocab = _vocab(ids)
    ids[0] = 7
    assert vocab.draft_to_target.tolist() == [3, 1]


def test_fingerprint_sees_ids_order_and_tokenizer_but_no_padding() -> None:
    vocab = _vocab([3, 1])
    assert vocab.fingerprint == _vocab([3, 1], n_target=10).fingerprint
    assert vocab.fingerprint == _vocab([3, 1], provenance={"x": 1}, must_keep_ids=(1,)).fingerprint
    assert vocab.fingerprint != _vocab([1, 3]).fingerprint
    assert vocab.fingerprint != _vocab([3, 1], tokenizer_fingerprint="e" * 64).fingerprint
    # Artifacts on disk depend on this definition.
    assert vocab.fingerprint == hashlib.sha256(b"f" * 64 + struct.pack("<2q", 3, 1)).hexdigest()


def test_the_two_paddings_of_one_tokenizer() -> None:
    ids = torch.randperm(N_ENTRIES, generator=torch.Generator().manual_seed(1))[:16_384]
    vocab = SubVocab(draft_to_target=ids, n_target=N_ROWS, n_tokenizer=N_ENTRIES, tokenizer_fingerprint="f" * 64)
    wide = vocab.with_target_width(152_064)
    assert wide.fingerprint == vocab.fingerprint
    assert wide.target_to_draft.shape == (152_064,)
    assert torch.equal(wide.target_to_draft[:N_ROWS], vocab.target_to_draft)
    assert torch.equal(vocab.target_to_draft[ids], torch.arange(16_384))
    assert int((vocab.target_to_draft >= 0).sum()) == 16_384
    with pytest.raises(VocabError, match="outlex trim"):
        vocab.with_target_width(int(ids.max()))


def test_token_map() -> None:
    token_map = _vocab([3, 1]).token_map("cpu")
    assert token_map.scatter(torch.tensor([0.25, 0.75])).tolist() == [0, 0.75, 0, 0.25] + [0] * 8
    assert not token_map.is_identity
    assert _vocab([3, 1]).token_map("meta").device.type == "meta"


def test_coverage() -> None:
    counts = torch.tensor([1, 2, 3, 4, 0, 0, 0, 0, 0, 10])
    assert _vocab([3, 1]).coverage(counts) == pytest.approx(0.3)
    assert _vocab([3, 1]).coverage(counts.to(torch.float32) / 20) == pytest.approx(0.3)
    assert _vocab(list(range(10))).coverage(counts) == 1


@pytest.mark.parametrize(
    "counts",
    [
        torch.ones(12),
        torch.ones(1, 10),
        torch.zeros(10),
        torch.tensor([-1.0] + [1.0] * 9),
        torch.tensor([float("nan")] + [1.0] * 9),
        torch.tensor([float("inf")] + [1.0] * 9),
    ],
)
def test_bad_counts_have_no_coverage(counts: Tensor) -> None:
    with pytest.raises(InputError, match="count_tokens"):
        _vocab([3, 1]).coverage(counts)


def test_the_tokenizer_is_checked(make_byte_level: Callable[..., Any]) -> None:
    facts = facts_of(make_byte_level())
    vocab = SubVocab.from_ranking(
        [300, 301], size=300, facts=facts, n_target=400, must_keep=must_keep(facts), provenance={}
    )
    vocab.check_tokenizer(facts)
    vocab.check_tokenizer(facts_of(make_byte_level(n_filler=3)))
    vocab.check_tokenizer(facts_of(make_byte_level(added=("<think>",))))
    other = facts_of(make_byte_level(n_entries=320))
    for wrong in (other, _facts(facts.n_entries), _facts(500, mark="x")):
        with pytest.raises(MismatchError, match="outlex trim"):
            vocab.check_tokenizer(wrong)


def test_a_changed_artifact_is_not_loaded(tmp_path: Path) -> None:
    vocab = _vocab([3, 1], must_keep_ids=(1,))
    vocab.save(tmp_path / "a")
    artifact = read_artifact(tmp_path / "a", kind="sub-vocab")
    changes: list[tuple[dict[str, Any], dict[str, Tensor]]] = [
        ({"fingerprint": "0" * 64}, {}),
        ({"n_target": 3}, {}),
        ({"n_target": 12.0}, {}),
        ({"n_tokenizer": True}, {}),
        ({"tokenizer_fingerprint": "e" * 64}, {}),
        ({"provenance": []}, {}),
        ({"more": 1}, {}),
        ({}, {"draft_to_target": torch.tensor([1, 3])}),
        ({}, {"draft_to_target": torch.tensor([1, 1])}),
        ({}, {"draft_to_target": torch.tensor([[3, 1]])}),
        ({}, {"must_keep_ids": torch.tensor([2])}),
        ({}, {"more": torch.tensor([2])}),
    ]
    for config, tensors in changes:
        write_artifact(
            tmp_path / "a",
            kind="sub-vocab",
            config={**artifact.config, **config},
            tensors={**artifact.tensors, **tensors},
        )
        with pytest.raises(ArtifactError, match="outlex trim"):
            SubVocab.load(tmp_path / "a")
    for name in artifact.config:
        config = {key: value for key, value in artifact.config.items() if key != name}
        write_artifact(tmp_path / "a", kind="sub-vocab", config=config, tensors=artifact.tensors)
        with pytest.raises(ArtifactError, match="outlex trim"):
            SubVocab.load(tmp_path / "a")


def test_parts_fit_into_another_artifact() -> None:
    vocab = _vocab([3, 1], must_keep_ids=(1,), provenance={"x": [1]})
    again = SubVocab.from_parts(*vocab.to_parts())
    assert again.fingerprint == vocab.fingerprint
    assert again.provenance == {"x": [1]}
    with pytest.raises(ArtifactError, match="outlex trim"):
        SubVocab.from_parts({}, vocab.to_parts()[1])
    with pytest.raises(ArtifactError, match="outlex trim"):
        SubVocab.from_parts(vocab.to_parts()[0], {})


@pytest.mark.real_model
def test_real_qwen_vocabulary_of_16k_rows(real_tokenizer: Callable[[str], Any], tmp_path: Path) -> None:
    facts = facts_of(real_tokenizer("qwen05"))
    kept = must_keep(facts)
    vocab = SubVocab.from_ranking([], size=16_384, facts=facts, n_target=N_ROWS, must_keep=kept, provenance={})
    assert vocab.n_draft == 16_384
    assert vocab.must_keep_ids == kept.ids
    vocab.save(tmp_path / "a")
    loaded = SubVocab.load(tmp_path / "a").with_target_width(152_064)
    assert loaded.fingerprint == vocab.fingerprint
    loaded.check_tokenizer(facts_of(real_tokenizer("qwen15")))
    with pytest.raises(MismatchError, match="outlex trim"):
        loaded.check_tokenizer(facts_of(real_tokenizer("smol135")))
