"""The emitted law equals the target's: exact enumeration of the decoding loop itself, float64, 1e-12."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outlex.proposals import DraftScores, Proposal, ProposalLaw, Tli, Vanilla
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams
from outlex.testing import TableDrafter, TableHead, TableTarget, assert_lossless, enumerate_outcomes
from outlex.vocab.token_map import TokenMap

Logits = Callable[[tuple[int, ...]], Tensor]
PROPOSALS: list[Proposal] = [Vanilla(), Tli()]


def table(seed: int, width: int, *, zeros: float = 0.0) -> Logits:
    """Logits that depend on the whole context; a share of them is -inf (never all of a row)."""

    @functools.cache
    def logits_of(context: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(hash((seed, width, context)) % 2**63)
        logits = torch.randn(width, dtype=torch.float64, generator=generator) * 2
        drop = torch.rand(width, generator=generator) < zeros
        drop[int(torch.randint(width, (), generator=generator))] = False
        return logits.masked_fill(drop, -torch.inf)

    return logits_of


def drafter_for(hidden_of: Logits, draft_to_target: list[int] | None, n_draft: int, n_target: int) -> TableDrafter:
    ids = None if draft_to_target is None else torch.tensor(draft_to_target)
    return TableDrafter(hidden_of, TableHead(TokenMap(ids, n_draft=n_draft, n_target=n_target)))


@st.composite
def maps(draw: st.DrawFn, n_target: int) -> list[int]:
    """Draft rows to target ids: any subset in any order, with some rows unknown to the target (-1)."""
    ids = draw(st.permutations(range(n_target)))
    kept = ids[: draw(st.integers(1, n_target))]
    return draw(st.permutations([*kept, *[-1] * draw(st.integers(0, 1))]))


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([(2, 1), (2, 2), (3, 1), (3, 2), (2, 3), (4, 1)]),
    zeros=st.sampled_from([0.0, 0.4]),
    proposal=st.sampled_from(PROPOSALS),
)
def test_any_draft_vocabulary_keeps_the_law(
    data: st.DataObject, seed: int, size: tuple[int, int], zeros: float, proposal: Proposal
) -> None:
    n_target, draft_len = size
    rows = data.draw(maps(n_target))
    assert_lossless(
        target=TableTarget(table(seed, n_target, zeros=zeros), n_target=n_target),
        drafter=drafter_for(table(seed + 1, len(rows), zeros=zeros), rows, len(rows), n_target),
        proposal=proposal,
        params=SamplingParams(),
        prompt_ids=[0],
        draft_len=draft_len,
    )


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
def test_four_drafts_and_a_second_block_keep_the_law(proposal: Proposal) -> None:
    # more than one block: rollback, pending tokens and the drafter's own cache are on the path
    for draft_len, n_blocks in ((4, 1), (1, 3), (2, 2)):
        assert_lossless(
            target=TableTarget(table(5, 2), n_target=2),
            drafter=drafter_for(table(6, 2), [1, -1] if draft_len == 2 else [1, 0], 2, 2),
            proposal=proposal,
            params=SamplingParams(),
            prompt_ids=[0, 1],
            draft_len=draft_len,
            n_blocks=n_blocks,
        )


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=1.6),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.7),
        SamplingParams(min_p=0.3),
        SamplingParams(repetition_penalty=1.5),
        SamplingParams(temperature=0.8, top_k=3, top_p=0.9, min_p=0.05, repetition_penalty=0.8),
        SamplingParams(temperature=0.0, repetition_penalty=1.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
def test_every_transform_keeps_the_law(params: SamplingParams, proposal: Proposal) -> None:
    assert_lossless(
        target=TableTarget(table(8, 4), n_target=4),
        drafter=drafter_for(table(9, 4), [3, 0, -1, 2], 4, 4),
        proposal=proposal,
        params=params,
        prompt_ids=[1],
        draft_len=2,
    )


@pytest.mark.parametrize("proposal", PROPOSALS, ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("case", "target_logits", "draft_logits", "rows"),
    [
        ("q equals p", [0.3, -1.0, 2.0], [0.3, -1.0, 2.0], [0, 1, 2]),
        ("disjoint supports", [0.0, 1.0, -torch.inf], [2.0], [2]),
        ("p only outside the draft vocabulary", [-torch.inf, 0.5, 0.7], [0.0], [0]),
        ("p is one token, inside", [0.0, -torch.inf, -torch.inf], [0.1, 0.2], [0, 1]),
        ("draft rows unknown to the target", [0.0, 1.0, 2.0], [5.0, 0.0], [-1, 1]),
        ("wider padding on the target", [0.0, 1.0, 2.0], [1.0, 1.0], None),
        ("wider padding on the drafter", [0.0, 1.0], [1.0, 1.0, 3.0], None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_corners_keep_the_law(
    proposal: Proposal, case: str, target_logits: list[float], draft_logits: list[float], rows: list[int] | None
) -> None:
    n_target = len(target_logits)
    assert_lossless(
        target=TableTarget(lambda _: torch.tensor(target_logits, dtype=torch.float64), n_target=n_target),
        drafter=drafter_for(
            lambda _: torch.tensor(draft_logits, dtype=torch.float64), rows, len(draft_logits), n_target
        ),
        proposal=proposal,
        params=SamplingParams(),
        prompt_ids=[0],
        draft_len=3,
    )


class _GrowingHead(TableHead):
    """A head that follows the request: its columns are the tokens seen so far, like an in-context head."""

    def begin(self, prompt_ids: list[int]) -> None:
        self._ids = sorted(set(prompt_ids))

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        top = target_logits.argmax(-1).tolist()
        self._ids = sorted({*self._ids, *verified_ids, *top})

    def score(self, hidden: Tensor) -> DraftScores:
        ids = torch.tensor(self._ids)
        n_target = self.token_map.n_target
        token_map = TokenMap(ids, n_draft=len(ids), n_target=n_target)
        return DraftScores(logits=hidden[:, ids], token_map=token_map, hidden=hidden)


def test_a_head_whose_vocabulary_changes_between_blocks_keeps_the_law() -> None:
    drafter = drafter_for(table(21, 3), None, 3, 3)
    drafter.head = _GrowingHead(TokenMap.identity(3, 3))
    assert_lossless(
        target=TableTarget(table(20, 3), n_target=3),
        drafter=drafter,
        proposal=Tli(),
        params=SamplingParams(),
        prompt_ids=[1],
        draft_len=1,
        n_blocks=3,
    )


class _FeatureDrafter(TableDrafter):
    """A feature-conditioned drafter: its state is the last target feature and its own drafts since.

    It also checks the shift that `drafters/base.py` draws: row j of the features is the target's state at the position
    before verified token j.
    """

    feature_layers = (1,)

    def begin(self) -> None:
        self._verified: list[int] = []
        self._drafts: list[int] = []
        self._feature = 0.0

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        assert features is not None
        assert features.shape[0] == verified_ids.shape[0]
        n_fed_back = min(n_accepted, len(self._drafts))  # the last draft of a block is never stepped from
        assert verified_ids[:n_fed_back].tolist() == self._drafts[:n_fed_back]
        for token_id, feature in zip(verified_ids.tolist(), features[:, 0].tolist(), strict=True):
            assert feature == _context_code((0, *self._verified)), "features are shifted"
            self._verified.append(token_id)
        self._feature, self._drafts = float(features[-1, 0]), []
        return self._state()

    def step(self, draft_id: Tensor) -> Tensor:
        self._drafts.append(int(draft_id))
        return self._state()

    def _state(self) -> Tensor:
        return self._hidden_of((int(self._feature) % 97, self._verified[-1], *self._drafts)).unsqueeze(0)


def _context_code(context: tuple[int, ...]) -> float:
    code = 7
    for token_id in context:
        code = (code * 31 + token_id + 1) % 100_003
    return float(code)


def test_a_feature_conditioned_drafter_gets_the_right_features_and_keeps_the_law() -> None:
    for prompt_ids, draft_len, n_blocks in (([0], 2, 3), ([0, 1, 1], 1, 4)):
        drafter = _FeatureDrafter(table(31, 2), TableHead(TokenMap.identity(2, 2)))
        assert_lossless(
            target=TableTarget(
                table(30, 2),
                n_target=2,
                feature_of=lambda c: torch.tensor([_context_code(c)], dtype=torch.float64),
            ),
            drafter=drafter,
            proposal=Tli(),
            params=SamplingParams(),
            prompt_ids=prompt_ids,
            draft_len=draft_len,
            n_blocks=n_blocks,
        )


class _Faulty:
    """Wraps a law with one fault."""

    def __init__(self, law: ProposalLaw, verified: ProposalLaw | None = None, *, shift_residual: bool = False) -> None:
        self._law, self._verified, self._shift = law, verified or law, shift_residual

    def sample(self, randomness: Randomness) -> Tensor:
        return self._law.sample(randomness)

    def prob_of(self, ids: Tensor) -> Tensor:
        return self._verified.prob_of(ids)

    def dense(self) -> Tensor:
        dense = self._verified.dense()
        return dense.roll(1, -1) if self._shift else dense


class _DrawnFromOneVerifiedWithAnother:
    name = "fault"

    def __init__(self, *, shift_residual: bool) -> None:
        self._shift = shift_residual

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        drawn = Tli().law(scores, params)
        if self._shift:
            return _Faulty(drawn, shift_residual=True)
        other = Tli().law(replace(scores, logits=scores.logits * 0.5), params)
        return _Faulty(drawn, other)


@pytest.mark.parametrize("shift_residual", [False, True])
def test_a_proposal_that_is_not_the_one_drawn_from_is_caught(shift_residual: bool) -> None:
    with pytest.raises(AssertionError, match="off by"):
        assert_lossless(
            target=TableTarget(table(40, 3), n_target=3),
            drafter=drafter_for(table(41, 3), None, 3, 3),
            proposal=_DrawnFromOneVerifiedWithAnother(shift_residual=shift_residual),
            params=SamplingParams(),
            prompt_ids=[0],
            draft_len=2,
        )


def test_the_enumerator_visits_every_outcome_once_with_its_probability() -> None:
    def program(randomness: Randomness) -> tuple[int, int]:
        first = int(randomness.choose(torch.tensor([[0.25, 0.0, 0.75]], dtype=torch.float64)))
        run = int(randomness.count_accepted(torch.tensor([0.5, 0.2], dtype=torch.float64)))
        return first, run

    outcomes = dict(enumerate_outcomes(program))
    assert outcomes == pytest.approx(
        {(0, 0): 0.125, (0, 1): 0.1, (0, 2): 0.025, (2, 0): 0.375, (2, 1): 0.3, (2, 2): 0.075}
    )
