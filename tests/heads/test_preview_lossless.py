"""Decoding with a preview head is lossless: enumeration on toy heads whose shortlist changes at every position."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from outlex.heads.linear import LinearHead
from outlex.heads.preview import PreviewHead
from outlex.heads.preview_fit import PreviewFactor
from outlex.heads.quantized_rows import quantize_rows
from outlex.heads.request_tokens import RequestTokens
from outlex.proposals import DraftScores, Proposal, ProposalLaw, Tli, Vanilla
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableTarget, assert_lossless
from outlex.vocab.shortlist import Shortlist

PROPOSALS: list[Proposal] = [Tli(), Vanilla()]


def table(seed: int, width: int) -> Any:
    @functools.cache
    def values(context: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, width, context)) % 2**63)
        return torch.randn(width, dtype=torch.float64, generator=generator) * 2

    return values


def toy_parts(n_rows: int, *, fine: bool) -> tuple[LinearHead, PreviewFactor]:
    """A head of 3 columns in float64, and a preview of it that sees 2 of them roughly, then all."""
    weight = torch.randn(n_rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    order = torch.randperm(n_rows, generator=torch.Generator().manual_seed(5))
    rank = 32 if fine else 2
    rows = torch.zeros(n_rows, rank)
    rows[:, : min(rank, 3)] = weight[order, : min(rank, 3)].float()
    offsets = torch.zeros(n_rows)
    return LinearHead(weight=weight), PreviewFactor(
        mean=torch.zeros(3),
        basis=torch.eye(rank, 3, dtype=torch.bfloat16),
        order=order,
        coarse=(
            quantize_rows(rows[:1, :2], offsets[:1], "bf16"),
            quantize_rows(rows[1:, :1], offsets[1:], "bf16"),
        ),
        fine=quantize_rows(rows, offsets, "int8") if fine else None,
        n_positions=200,
    )


class Watched(PreviewHead):
    """Notes the shortlists it hands out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: set[tuple[int, ...]] = set()

    def score(self, hidden: Tensor) -> DraftScores:
        scores = super().score(hidden)
        self.seen.add(tuple(sorted(scores.token_map.draft_to_target.tolist())))
        return scores


def toy_head(
    n_rows: int,
    n_target: int,
    *,
    n_exact: int,
    capacity: int = 0,
    fine: bool = False,
    top_m: int = 1,
    kind: type[PreviewHead] = Watched,
) -> Any:
    linear, factor = toy_parts(n_rows, fine=fine)
    always = None
    if capacity:
        always = RequestTokens(
            torch.empty(0, dtype=torch.int64),
            n_tokens=min(n_rows, n_target),
            n_target=n_target,
            capacity=capacity,
        )
    n_candidates = min(n_rows, n_target, n_exact + 1)
    return kind(
        linear, factor, n_target=n_target, n_candidates=n_candidates, n_exact=n_exact, always=always, top_m=top_m
    )


def check(
    head: Any,
    n_target: int,
    *,
    proposal: Proposal,
    draft_len: int,
    n_blocks: int,
    params: SamplingParams | None = None,
    prompt_ids: tuple[int, ...] = (1,),
) -> None:
    assert_lossless(
        target=TableTarget(table(1, n_target), n_target=n_target),
        drafter=TableDrafter(table(2, 3), head),
        proposal=proposal,
        params=params or SamplingParams(),
        prompt_ids=list(prompt_ids),
        draft_len=draft_len,
        n_blocks=n_blocks,
    )


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize(
    ("n_rows", "n_target", "n_exact", "draft_len", "n_blocks"),
    [
        (4, 4, 2, 2, 1),
        (5, 4, 1, 1, 2),  # a row that the target does not have
        (3, 4, 2, 1, 2),  # a token of the target without a row
        (3, 3, 3, 1, 2),  # nothing is left out
        (4, 3, 1, 3, 2),
    ],
)
def test_the_emitted_law_is_the_targets(
    proposal: Proposal, fine: bool, n_rows: int, n_target: int, n_exact: int, draft_len: int, n_blocks: int
) -> None:
    head = toy_head(n_rows, n_target, n_exact=n_exact, fine=fine)
    check(head, n_target, proposal=proposal, draft_len=draft_len, n_blocks=n_blocks)
    assert (len(head.seen) > 1) == (n_exact < min(n_rows, n_target))


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.7),
        SamplingParams(top_k=1),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.6),
        SamplingParams(temperature=0.7, top_k=2, top_p=0.9, repetition_penalty=1.3),
    ],
    ids=str,
)
def test_every_transform_keeps_the_law(proposal: Proposal, params: SamplingParams) -> None:
    head = toy_head(4, 4, n_exact=2, fine=True)
    check(head, 4, proposal=proposal, draft_len=2, n_blocks=1, params=params)
    both = toy_head(4, 4, n_exact=1, capacity=1, fine=True)
    check(both, 4, proposal=proposal, draft_len=1, n_blocks=2, params=params)
    assert len(both.seen) > 1


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("n_rows", "n_target", "n_exact", "capacity", "top_m", "draft_len", "n_blocks", "prompt_ids"),
    [
        (4, 4, 1, 1, 1, 1, 2, (1,)),  # every token that joins evicts the last
        (4, 4, 1, 2, 1, 2, 1, (3, 0)),
        (4, 4, 1, 3, 2, 1, 2, (2,)),
        (3, 4, 1, 1, 1, 1, 2, (3,)),  # the prompt's token has no row
        (5, 3, 1, 2, 0, 1, 3, (2,)),
    ],
)
def test_tokens_of_the_request_join_and_leave(
    proposal: Proposal,
    n_rows: int,
    n_target: int,
    n_exact: int,
    capacity: int,
    top_m: int,
    draft_len: int,
    n_blocks: int,
    prompt_ids: tuple[int, ...],
) -> None:
    head = toy_head(n_rows, n_target, n_exact=n_exact, capacity=capacity, top_m=top_m)
    check(head, n_target, proposal=proposal, draft_len=draft_len, n_blocks=n_blocks, prompt_ids=prompt_ids)
    assert len(head.seen) > 1


class Fickle(PreviewHead):
    """Turns its preview around whenever it is asked: another shortlist for the same hidden state."""

    n_asked = 0

    def _shortlist(self, coarse: Tensor, z: Tensor) -> Tensor:
        self.n_asked += 1
        return super()._shortlist(coarse if self.n_asked % 2 else -coarse, z)


class AsksTwice:
    """Draws from one answer of a head, and verifies with a second one."""

    name = "asks-twice"

    def __init__(self, head: PreviewHead) -> None:
        self._head = head

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        return Split(Tli().law(scores, params), Tli().law(self._head.score(scores.hidden), params))


class Split:
    """A law that is drawn from, and another that answers."""

    def __init__(self, drawn: ProposalLaw, answers: ProposalLaw) -> None:
        self._drawn = drawn
        self.prob_of, self.dense = answers.prob_of, answers.dense

    def sample(self, randomness: Randomness) -> Tensor:
        return self._drawn.sample(randomness)


def test_a_head_that_answers_otherwise_the_second_time_is_caught() -> None:
    # one that does not may be asked as often as you like
    steady = toy_head(4, 4, n_exact=2)
    check(steady, 4, proposal=AsksTwice(steady), draft_len=1, n_blocks=2)
    fickle = toy_head(4, 4, n_exact=2, kind=Fickle)
    with pytest.raises(AssertionError, match="off by"):
        check(fickle, 4, proposal=AsksTwice(fickle), draft_len=1, n_blocks=2)


class Stale(PreviewHead):
    """Lets the shortlist of the step before say which column a token has."""

    _before: Shortlist | None = None

    def score(self, hidden: Tensor) -> DraftScores:
        scores = super().score(hidden)
        now = scores.token_map
        assert isinstance(now, Shortlist)
        torn = Torn(now.draft_to_target, n_target=now.n_target)
        torn.before = self._before or now
        self._before = now
        return DraftScores(logits=scores.logits, token_map=torn, hidden=hidden)


class Torn(Shortlist):
    before: Shortlist

    def to_draft(self, ids: Tensor) -> Tensor:
        return self.before.to_draft(ids)


def test_a_shortlist_of_the_step_before_is_caught() -> None:
    with pytest.raises(AssertionError, match="off by"):
        check(toy_head(4, 4, n_exact=2, kind=Stale), 4, proposal=Tli(), draft_len=2, n_blocks=1)


class Twice(PreviewHead):
    """Puts the request's tokens on the list and leaves them among the candidates."""

    def _mark(self) -> None:
        self._is_always.zero_()


def test_a_token_that_is_on_the_list_twice_is_caught() -> None:
    with pytest.raises(AssertionError, match="off by"):
        check(
            toy_head(4, 4, n_exact=2, capacity=1, kind=Twice),
            4,
            proposal=Tli(),
            draft_len=1,
            n_blocks=2,
            prompt_ids=(1,),
        )
