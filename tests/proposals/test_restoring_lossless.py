"""Every restoring proposal keeps the target's law, by enumeration of the decoding loop; seeded faults do not."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from proposal_builders import all_proposals, pure_proposals
from proposal_faults import (
    FaultyLaw,
    FaultyProposal,
    PatchedLaw,
    ShiftedTarget,
    filter_forgotten_in_the_residual,
    judged_by,
    judged_by_tli,
    not_renormalised,
    offsets_read_as_absolute,
    residual_of_the_drafted_token,
)
from torch import Tensor

from outlex.proposals import DraftScores, Mixed, Proposal, ProposalLaw, Tli
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget, assert_lossless
from outlex.vocab.token_map import TokenMap

Logits = Callable[[tuple[int, ...]], Tensor]
HOT, N = [2, 0], 3
# the toy drafter's hidden states are its logits, so the width of the hidden states is that of the trimmed head
PROPOSALS = all_proposals(HOT, N, d=len(HOT))
PURE = pure_proposals(HOT, N, d=len(HOT))
WIDE = pure_proposals(HOT, 4, d=len(HOT))


def table(seed: int, width: int, *, zeros: float = 0.0) -> Logits:
    """Logits that depend on the whole context; a share of them is -inf (never all of a row)."""

    @functools.cache
    def logits_of(context: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, width, context)) % 2**63)
        logits = torch.randn(width, dtype=torch.float64, generator=generator) * 1.5
        drop = torch.rand(width, generator=generator) < zeros
        drop[int(torch.randint(width, (), generator=generator))] = False
        return logits.masked_fill(drop, -torch.inf)

    return logits_of


def check(
    proposal: Proposal,
    *,
    n_target: int = N,
    draft_len: int = 2,
    n_blocks: int = 1,
    params: SamplingParams | None = None,
    hot: list[int] = HOT,
    zeros: float = 0.0,
    target: TableTarget | None = None,
) -> None:
    token_map = TokenMap(torch.tensor(hot), n_draft=len(hot), n_target=n_target)
    assert_lossless(
        target=target or TableTarget(table(1, n_target, zeros=zeros), n_target=n_target),
        drafter=TableDrafter(table(2, len(hot)), TableHead(token_map)),
        proposal=proposal,
        params=params or SamplingParams(),
        prompt_ids=[0],
        draft_len=draft_len,
        n_blocks=n_blocks,
    )


@pytest.mark.parametrize("name", PROPOSALS)
def test_one_draft_keeps_the_law(name: str) -> None:
    check(PROPOSALS[name], draft_len=1)
    check(PROPOSALS[name], draft_len=1, zeros=0.4)  # where p is 0 and q̃ is not


@pytest.mark.parametrize("name", PURE)
def test_two_drafts_and_a_wider_vocabulary_keep_the_law(name: str) -> None:
    check(PURE[name])
    check(WIDE[name], n_target=4, draft_len=1)


@pytest.mark.parametrize("name", ["cold-row", "clusters", "learned", "rdk-first-order"])
def test_two_blocks_and_two_drafts_of_a_mixture_keep_the_law(name: str) -> None:
    check(PURE[name], draft_len=1, n_blocks=2)
    check(PROPOSALS[f"mixed {name}"], params=SamplingParams(top_k=1))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=1.6, top_p=0.7),
        SamplingParams(top_k=2),
        SamplingParams(min_p=0.3, repetition_penalty=1.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", PROPOSALS)
def test_every_transform_keeps_the_law(name: str, params: SamplingParams) -> None:
    check(PROPOSALS[name], draft_len=1, params=params)


@pytest.mark.parametrize("name", PURE)
def test_an_unknown_column_keeps_the_law(name: str) -> None:
    check(pure_proposals([2, 0], N, d=3)[name], hot=[2, -1, 0], draft_len=1)


# --- seeded faults -----------------------------------------------------------------------------------------


class _Stale:
    """Judges a position by the law of the position before: its dense row alone, or both."""

    def __init__(self, *, both: bool) -> None:
        self._both = both
        self._last: ProposalLaw | None = None

    def __call__(self, right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        # laws are asked for in pairs: a block has two drafts
        if self._last is None:
            self._last = right
            return right
        old, self._last = self._last, None
        return PatchedLaw(right, prob_of=old.prob_of if self._both else None, dense=old.dense)


def _column_looked_up_without_those_that_stay(
    right: ProposalLaw, scores: DraftScores, params: SamplingParams
) -> ProposalLaw:
    # a token that keeps its mass and receives some: only what it receives is counted
    hot = Tli().law(scores, params)
    return PatchedLaw(right, prob_of=lambda ids: right.prob_of(ids) - 0.5 * hot.prob_of(ids))


FAULTS: dict[str, tuple[Proposal, FaultyLaw]] = {
    "residual from the drafted token only": (PURE["learned"], residual_of_the_drafted_token),
    "q' in place of q̃": (PURE["cold-row"], judged_by_tli),
    "renormalisation missing": (Tli(), not_renormalised(0.8)),
    "stale row": (PURE["clusters"], _Stale(both=False)),
    "position off by one": (PURE["rdk-first-order"], _Stale(both=True)),
    "offsets read as absolute ids": (Tli(), offsets_read_as_absolute),
    "λ differs between drawing and accepting": (
        PROPOSALS["mixed learned"],
        judged_by(Mixed(inner=PURE["learned"], weights=((0.5,),))),
    ),
    "a part of the look-up forgotten": (PROPOSALS["mixed cold-row"], _column_looked_up_without_those_that_stay),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_caught_and_its_absence_passes(name: str) -> None:
    right, fault = FAULTS[name]
    # offsets of these rows are distinct: 0 and 1
    hot = [0, 2] if "offsets" in name else HOT
    draft_len = 1 if isinstance(right, Mixed) else 2
    check(FaultyProposal(right, lambda law, scores, params: law), hot=hot, draft_len=draft_len)
    with pytest.raises(AssertionError, match="off by"):
        check(FaultyProposal(right, fault), hot=hot, draft_len=draft_len)


def test_a_filter_applied_to_p_but_not_in_the_residual_is_caught() -> None:
    params = SamplingParams(top_k=2)
    check(PURE["learned"], params=params)
    with filter_forgotten_in_the_residual(), pytest.raises(AssertionError, match="off by"):
        check(PURE["learned"], params=params, draft_len=1)


def test_p_of_the_wrong_position_is_caught() -> None:
    with pytest.raises(AssertionError, match="off by"):
        check(PURE["learned"], target=ShiftedTarget(table(1, N), n_target=N))
