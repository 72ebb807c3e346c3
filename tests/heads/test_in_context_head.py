"""The in-context head: its scores are the whole head's, whatever happened before, and decoding with it is lossless."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer, tiny_pair
from torch import Tensor

from outlex import SamplingParams, SpeculativeDecoder, SubVocab
from outlex.drafters import IndependentDrafter
from outlex.errors import InputError, MismatchError, VocabError
from outlex.heads import InContextHead, LinearHead
from outlex.models.output_head import output_head
from outlex.proposals import DraftScores, Proposal, Tli, Vanilla
from outlex.testing import TableDrafter, TableTarget, assert_lossless
from outlex.vocab.tokenizer_facts import facts_of


def vocab(ids: list[int], n_target: int) -> SubVocab:
    return SubVocab(
        draft_to_target=torch.tensor(ids), n_target=n_target, n_tokenizer=n_target, tokenizer_fingerprint="f"
    )


def linear(n_rows: int, d: int = 4, *, seed: int = 0, bias: bool = False, **rest: Any) -> LinearHead:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_rows, d, dtype=torch.float64, generator=generator)
    own_bias = torch.randn(n_rows, dtype=torch.float64, generator=generator) if bias else None
    return LinearHead(weight=weight, bias=own_bias, **rest)


def columns_of(scores: DraftScores) -> list[int]:
    ids: list[int] = scores.token_map.draft_to_target.tolist()
    return ids


def check_scores(head: InContextHead, full: LinearHead, hidden: Tensor) -> None:
    scores = head.score(hidden)
    wanted = full.logits(hidden)[:, scores.token_map.draft_to_target]
    torch.testing.assert_close(scores.logits, wanted, rtol=1e-12, atol=1e-12)
    assert len(set(columns_of(scores))) == scores.logits.shape[1]


PROMPT = st.lists(st.integers(0, 19), min_size=1, max_size=5)


@settings(deadline=None)
@given(
    requests=st.lists(
        st.tuples(PROMPT, st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=4), max_size=5)),
        min_size=1,
        max_size=3,
    ),
    kind=st.sampled_from([{}, {"bias": True}, {"scale": 0.5, "softcap": 3.0}]),
    n_rows=st.sampled_from([16, 20, 24]),
)
def test_scores_are_those_of_the_whole_head(
    requests: list[tuple[list[int], list[list[int]]]], kind: dict[str, Any], n_rows: int
) -> None:
    full = linear(n_rows, **kind)
    head = InContextHead(full, vocab([2, 9], 20), n_target=20, capacity=5, top_m=2)
    hidden = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for seed, (prompt, blocks) in enumerate(requests):
        logits = linear(30, 20, seed=seed).weight
        head.begin(prompt)
        check_scores(head, full, hidden)
        for verified in blocks:
            head.observe(verified, logits[: len(verified)])
            check_scores(head, full, hidden)
        # nothing is left of earlier requests: a head that never saw them says the same
        other = InContextHead(full, vocab([2, 9], 20), n_target=20, capacity=5, top_m=2)
        other.begin(prompt)
        for verified in blocks:
            other.observe(verified, logits[: len(verified)])
        assert columns_of(head.score(hidden)) == columns_of(other.score(hidden))
        assert torch.equal(head.score(hidden).logits, other.score(hidden).logits)


def test_a_row_that_is_not_renewed_after_an_eviction_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    full = linear(20)
    head = InContextHead(full, vocab([2], 20), n_target=20, capacity=2, top_m=0)
    hidden = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    head.begin([4, 5])
    check_scores(head, full, hidden)
    n_used = head.tokens.n_used
    real = InContextHead._copy

    def forgets_evictions(self: InContextHead, columns: Tensor, token_ids: Tensor) -> None:
        new = columns >= n_used
        real(self, columns[new], token_ids[new])

    monkeypatch.setattr(InContextHead, "_copy", forgets_evictions)
    head.observe([6], torch.zeros(1, 20))
    with pytest.raises(AssertionError):
        check_scores(head, full, hidden)


def test_what_joins_is_the_prompt_then_the_verified_tokens_and_the_tops_of_their_rows() -> None:
    head = InContextHead(linear(20), vocab([2], 20), n_target=20, top_m=2)
    hidden = torch.zeros(1, 4, dtype=torch.float64)
    assert columns_of(head.score(hidden)) == [2]
    head.begin([7, 2, 8])
    assert columns_of(head.score(hidden)) == [2, 7, 8]
    logits = torch.zeros(2, 20)
    logits[0, [11, 12]] = torch.tensor([2.0, 1.0])
    logits[1, [8, 13]] = torch.tensor([1.0, 2.0])
    head.observe([14], logits)
    assert sorted(columns_of(head.score(hidden))) == [2, 7, 8, 11, 12, 13, 14]
    head.begin([3])
    assert columns_of(head.score(hidden)) == [2, 3]


def test_bytes_are_those_of_the_rows_in_use() -> None:
    head = InContextHead(linear(20, bias=True), vocab([2], 20), n_target=20, top_m=0)
    a_row = 5 * 8  # four weights and a bias in float64
    assert head.bytes_per_step == head.mean_bytes_per_step == a_row
    head.begin([7, 8])
    head.score(torch.zeros(1, 4, dtype=torch.float64))
    head.observe([9], torch.zeros(1, 20))
    assert head.bytes_per_step == 4 * a_row
    head.score(torch.zeros(3, 4, dtype=torch.float64))
    assert head.mean_bytes_per_step == (3 + 3 * 4) / 4 * a_row


@pytest.mark.parametrize(
    ("changes", "error", "needle"),
    [
        ({"capacity": 0}, InputError, "2048"),
        ({"top_m": -1}, InputError, "top_m=8"),
        ({"top_m": 21}, InputError, "0 to 20"),
        ({"prompt_logits": -1}, InputError, "prompt_logits=256"),
        ({"vocab": vocab([2, 22], 24), "n_target": 24}, MismatchError, "ids below 20"),
        ({"vocab": vocab([2, 22], 24)}, VocabError, "outlex trim"),
    ],
)
def test_heads_that_cannot_be_made(changes: dict[str, Any], error: type[Exception], needle: str) -> None:
    options: dict[str, Any] = {"vocab": vocab([2], 20), "n_target": 20, **changes}
    with pytest.raises(error, match=needle):
        InContextHead(linear(20), options.pop("vocab"), **options)


def test_a_prompt_larger_than_the_buffer_is_explained() -> None:
    head = InContextHead(linear(20), vocab([2], 20), n_target=20, capacity=2)
    with pytest.raises(InputError, match="capacity=6") as caught:
        head.begin([5, 6, 7])
    assert "at least 3" in str(caught.value)


# --- losslessness -------------------------------------------------------------------------------------------


def table(seed: int, width: int) -> Any:
    @functools.cache
    def values(context: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, context)) % 2**63)
        return torch.randn(width, dtype=torch.float64, generator=generator) * 2

    return values


class _Counting(InContextHead):
    """Counts the columns that were given to another token."""

    n_evictions = 0

    def _copy(self, columns: Tensor, token_ids: Tensor) -> None:
        n_used = self._used.n_rows
        self.n_evictions += int((columns < n_used).sum()) if hasattr(self, "_went_on") else 0
        self._went_on = True
        super()._copy(columns, token_ids)

    def begin(self, prompt_ids: list[int]) -> None:
        vars(self).pop("_went_on", None)
        super().begin(prompt_ids)


@pytest.mark.parametrize("proposal", [Tli(), Vanilla()], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("n_target", "n_rows", "capacity", "top_m", "prompt_ids", "draft_len", "n_blocks", "temperature"),
    [
        (3, 3, 1, 1, [1], 1, 3, 1.0),  # every new token evicts the last
        (3, 4, 1, 1, [2, 0, 2], 2, 2, 1.0),
        (4, 3, 2, 2, [1, 3], 1, 2, 0.7),  # a target token without a row
        (4, 4, 1, 2, [1, 1], 2, 2, 0.0),
        (3, 3, 8, 0, [1], 1, 3, 1.0),
    ],
)
def test_the_emitted_law_is_the_targets(
    proposal: Proposal,
    n_target: int,
    n_rows: int,
    capacity: int,
    top_m: int,
    prompt_ids: list[int],
    draft_len: int,
    n_blocks: int,
    temperature: float,
) -> None:
    full = linear(n_rows, d=3, seed=3)
    head = _Counting(full, vocab([0], n_target), n_target=n_target, capacity=capacity, top_m=top_m)
    assert_lossless(
        target=TableTarget(table(1, n_target), n_target=n_target),
        drafter=TableDrafter(table(2, 3), head),
        proposal=proposal,
        params=SamplingParams(temperature=temperature),
        prompt_ids=prompt_ids,
        draft_len=draft_len,
        n_blocks=n_blocks,
    )
    assert (head.n_evictions > 0) == (capacity == 1)


class _Stale(InContextHead):
    """Draws from the columns of now, and lets the map of the first step answer."""

    def begin(self, prompt_ids: list[int]) -> None:
        super().begin(prompt_ids)
        self._map = self.tokens.token_map

    def score(self, hidden: Tensor) -> DraftScores:
        scores = super().score(hidden)
        fits = scores.logits.shape[1] == self._map.n_draft
        torn: Any = _Torn(scores.token_map, self._map) if fits else scores.token_map
        return DraftScores(logits=scores.logits, token_map=torn, hidden=hidden)


class _Torn:
    """Maps draws by one map and answers `to_draft` by another: what a map changed in place would do."""

    known = None

    def __init__(self, now: Any, before: Any) -> None:
        self.to_target, self.scatter, self.n_draft = now.to_target, now.scatter, now.n_draft
        self.to_draft, self.draft_to_target = before.to_draft, now.draft_to_target


def test_a_map_that_does_not_follow_an_eviction_is_caught() -> None:
    head = _Stale(linear(3, d=3, seed=3), vocab([0], 3), n_target=3, capacity=1, top_m=1)
    with pytest.raises(AssertionError, match="off by"):
        assert_lossless(
            target=TableTarget(table(1, 3), n_target=3),
            drafter=TableDrafter(table(2, 3), head),
            proposal=Tli(),
            params=SamplingParams(),
            prompt_ids=[1],
            draft_len=1,
            n_blocks=3,
        )


@pytest.mark.parametrize("capacity", [24, 300])
def test_greedy_decoding_of_a_model_is_unchanged(capacity: int) -> None:
    target, drafter = tiny_pair()
    facts = facts_of(byte_tokenizer())
    static = SubVocab(
        draft_to_target=torch.tensor([0, 5, 70]),
        n_target=260,
        n_tokenizer=facts.n_entries,
        tokenizer_fingerprint=facts.fingerprint,
    )
    head = InContextHead(output_head(drafter), static, n_target=260, capacity=capacity, prompt_logits=5)
    alone, fast = SpeculativeDecoder(target), SpeculativeDecoder(target, IndependentDrafter(drafter, head=head))
    for prompt in ("the river", "a", "lights on the other shore"):
        greedy: dict[str, Any] = {"max_new_tokens": 40, "params": SamplingParams(temperature=0.0)}
        wanted, got = alone.generate(prompt, **greedy), fast.generate(prompt, **greedy)
        assert got.token_ids == wanted.token_ids
    assert head.mean_bytes_per_step > 3 * 32 * 4
