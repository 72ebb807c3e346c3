"""The proposal protocol: from the drafter's scores to q̃, the law that a draft token is really drawn from.

    hidden ──head──▶ DraftScores ──proposal──▶ ProposalLaw ──sample──▶ draft token
                                                    │ prob_of ──▶ accept / reject
                                                    └ dense   ──▶ residual, at the one rejected position

One `ProposalLaw` object answers all three questions about a position, so the law that is drawn from, accepted against
and subtracted in the residual cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from outlex.randomness import Randomness
from outlex.sampling import SamplingParams
from outlex.vocab.shortlist import Shortlist
from outlex.vocab.token_map import TokenMap

__all__ = ["DraftScores", "HotLaw", "Proposal", "ProposalLaw"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftScores:
    """What a draft head says about n positions.

    Attributes:
        logits: [n, n_draft], a floating dtype, repetition penalty already applied.
        token_map: which target token each of the n_draft columns stands for. A head whose columns change between
            steps hands out a new map each time; a map is never changed after it was handed out.
        hidden: the drafter's hidden states the scores were made from [n, d], for proposals that look at them.
    """

    logits: Tensor
    token_map: TokenMap | Shortlist
    hidden: Tensor


class ProposalLaw(Protocol):
    """q̃ at n positions, over the target's whole vocabulary.

    A row may sum to less than 1: the missing mass is drawn as -1, a token the target does not know, and is always
    rejected.
    """

    def sample(self, randomness: Randomness) -> Tensor:
        """Draw one target id a position: int64 [n]; -1 is a token unknown to the target."""

    def prob_of(self, ids: Tensor) -> Tensor:
        """q̃(id) for one target id a position: ids int64 [n] -> [n]; 0 for -1 and for tokens never proposed."""

    def dense(self) -> Tensor:
        """The whole law, [n, n_target]. The only `n_target`-wide allocation; needed where a draft was rejected."""


class Proposal(Protocol):
    """q ↦ q̃."""

    @property
    def name(self) -> str:
        """Short name for reports, such as "tli"."""

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        """The law for each position of `scores`; temperature and filters of `params` are part of it."""


class HotLaw:
    """A law with mass on draft columns only; everything it holds is n_draft wide.

    Args:
        probs: [n, n_draft], rows summing to at most 1.
        token_map: column to target id. Columns that map to -1 are drawn as -1.
    """

    def __init__(self, probs: Tensor, token_map: TokenMap | Shortlist) -> None:
        self.probs = probs
        self.token_map = token_map

    def sample(self, randomness: Randomness) -> Tensor:
        return self.token_map.to_target(randomness.choose(self.probs))

    def prob_of(self, ids: Tensor) -> Tensor:
        columns = self.token_map.to_draft(ids)
        probs = self.probs.gather(-1, columns.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return probs.masked_fill(columns < 0, 0.0)

    def dense(self) -> Tensor:
        return self.token_map.scatter(self.probs)
