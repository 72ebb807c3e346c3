"""Faults of speculative decoding that are seeded on purpose: laws drawn from in one way and judged in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor

from outlex.decode import block
from outlex.models.target import TargetOutput
from outlex.proposals import DraftScores, HotLaw, Proposal, ProposalLaw, Tli
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, probabilities
from outlex.testing import TableTarget
from outlex.verify import Verdict, residual, verify
from outlex.vocab.token_map import TokenMap

FaultyLaw = Callable[[ProposalLaw, DraftScores, SamplingParams], ProposalLaw]


class PatchedLaw:
    """A law that is drawn from in one way and judged in another."""

    def __init__(
        self,
        drawn: ProposalLaw,
        *,
        prob_of: Callable[[Tensor], Tensor] | None = None,
        dense: Callable[[], Tensor] | None = None,
    ) -> None:
        self._drawn = drawn
        self._prob_of = prob_of or drawn.prob_of
        self._dense = dense or drawn.dense

    def sample(self, randomness: Randomness) -> Tensor:
        self.last = self._drawn.sample(randomness)
        return self.last

    def prob_of(self, ids: Tensor) -> Tensor:
        return self._prob_of(ids)

    def dense(self) -> Tensor:
        return self._dense()


@dataclass
class FaultyProposal:
    """`fault` makes the faulty law of (the right law, scores, parameters)."""

    right: Proposal
    fault: FaultyLaw
    name: str = "fault"

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        return self.fault(self.right.law(scores, params), scores, params)


def residual_of_the_drafted_token(right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
    del params

    def dense() -> Tensor:
        row = torch.zeros(1, scores.token_map.n_target, dtype=torch.float64)
        row[0, patched.last] = right.prob_of(patched.last)
        return row

    patched = PatchedLaw(right, dense=dense)
    return patched


def judged_by(other: Proposal) -> FaultyLaw:
    """Drawn from one proposal, accepted and subtracted as if from another."""

    def fault(right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        law = other.law(scores, params)
        return PatchedLaw(right, prob_of=law.prob_of, dense=law.dense)

    return fault


def not_renormalised(share: float) -> FaultyLaw:
    """Judged with the trimmed columns' share of the whole drafter's law, where the draw is renormalised."""

    def fault(right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        return PatchedLaw(right, prob_of=lambda ids: right.prob_of(ids) * share, dense=lambda: right.dense() * share)

    return fault


def offsets_read_as_absolute(right: ProposalLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
    del params
    assert isinstance(right, HotLaw)
    ids = scores.token_map.draft_to_target
    offsets = ids - torch.arange(len(ids))
    wrong = HotLaw(right.probs, TokenMap(offsets, n_draft=len(ids), n_target=scores.token_map.n_target))
    return PatchedLaw(right, prob_of=wrong.prob_of, dense=wrong.dense)


judged_by_tli = judged_by(Tli())


@contextmanager
def filter_forgotten_in_the_residual() -> Iterator[None]:
    """The loop meanwhile makes the residual of p before the filters."""
    unfiltered: list[Tensor] = []

    def filtering(logits: Tensor, params: SamplingParams) -> Tensor:
        unfiltered.append(probabilities(logits, replace(params, top_k=0, top_p=1.0)))
        return probabilities(logits, params)

    def faulty(p: Tensor, draft_ids: Tensor, laws: Sequence[ProposalLaw], randomness: Randomness) -> Verdict:
        verdict = verify(p, draft_ids, laws, randomness)
        if verdict.kind == "bonus":
            return verdict
        at = slice(verdict.n_accepted, verdict.n_accepted + 1)
        law = residual(unfiltered[-1][at], laws[verdict.n_accepted].dense())
        return replace(verdict, next_id=int(randomness.choose(law)))

    with mock.patch.object(block, "probabilities", filtering), mock.patch.object(block, "verify", faulty):
        yield


class ShiftedTarget(TableTarget):
    """Its rows come one position late: the row of the token before."""

    def forward(self, ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
        out = super().forward(ids, n_logits=n_logits, feature_layers=feature_layers)
        return replace(out, logits=out.logits.roll(1, 0))
