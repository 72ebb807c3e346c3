"""Proposals that give mass back to tokens the draft head lacks: what they have in common.

All of them start from q', the TLI law over the draft columns, and are frozen objects fitted from arrays (`Parts`), so
that an artifact can carry them. They are lossless whatever they were fitted to: verification uses the law that was
drawn from.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from outlex.parts import Parts
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.tli import Tli
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams

__all__ = ["DenseLaw", "Restoring"]

_TLI = Tli()


@dataclass(frozen=True, kw_only=True, eq=False)
class Restoring(Parts):
    """q ↦ q̃ by way of q'. `kind` is its name in reports as well."""

    @property
    def name(self) -> str:
        return self.kind

    def law(self, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        """The law for each position of `scores`."""
        return self.restore(_TLI.law(scores, params), scores, params)

    @abstractmethod
    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        """The law, given q' of the same scores and parameters."""


class DenseLaw:
    """A law that is computed whole, `n_target` wide: for proposals that are no cheaper by parts.

    Args:
        probs: [n, n_target], not negative. Rows are scaled to sum to 1: drawing scales them, and looking up has to
            agree with it. A row of zeros is drawn as -1.
    """

    def __init__(self, probs: Tensor) -> None:
        mass = probs.sum(-1, keepdim=True, dtype=torch.float64).to(probs.dtype)
        self._empty = mass.squeeze(-1) == 0
        self.probs = probs / torch.where(mass == 0, 1.0, mass)

    def sample(self, randomness: Randomness) -> Tensor:
        drawn = randomness.choose(torch.where(self._empty.unsqueeze(-1), 1.0, self.probs))
        return drawn.masked_fill(self._empty, -1)

    def prob_of(self, ids: Tensor) -> Tensor:
        probs = self.probs.gather(-1, ids.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return probs.masked_fill(ids < 0, 0.0)

    def dense(self) -> Tensor:
        return self.probs
