"""RDK to first order: exp(x) ≈ 1 + x makes the kernel linear, and no row of it is ever needed.

With Ω the covariance over S calibration distributions P, rows of Ω sum to 0, so every row of 1 + Ω/T_Ω sums to
N = `n_target`, and

    q̃_j ∝ max(0, 1 + (Ω q')_j / T_Ω),        Ω q' = Pᵀ (y − mean y) / S,  y = P q'

arXiv 2506.03206 (abstract): O(N²) becomes O(N). The derivation, the sparse P, and clamping at 0 with one normaliser are
ours. Ω q' is 0 for tokens that no calibration distribution holds: they share one value, and with it one uniform law, so
a draft step costs O(S · k) whatever N is. It differs from the exact kernel by O(1/T_Ω²).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.affinity.distributions import SparseDistributions
from outlex.errors import InputError
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.fixed_laws import FixedLaws
from outlex.proposals.restoring import Restoring
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams

__all__ = ["RdkFirstOrder"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RdkFirstOrder(Restoring):
    """First-order RDK of the target's covariance.

    Attributes:
        distributions: P, the target's laws at calibration positions, over `n_target` tokens.
        temperature: T_Ω > 0.

    Raises:
        InputError: the temperature is out of range.
    """

    kind: ClassVar[str] = "rdk-first-order"

    distributions: SparseDistributions = field(repr=False)
    temperature: float

    _support: Tensor = field(init=False, repr=False)  # int64 [u], tokens of any distribution, ascending
    _local: SparseDistributions = field(init=False, repr=False)  # P over places in the support
    _slot_of: Tensor = field(init=False, repr=False)  # int64 [n_target + 1], -1 outside of the support
    _others: FixedLaws | None = field(init=False, repr=False)  # uniform over all other tokens

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(
                "The temperature of the kernel cannot be used",
                got=self.temperature,
                expected="a finite number above 0",
                next_step="a covariance of probabilities has entries below 0.25: values from 1e-6 to 1e-2 matter",
            )
        laws = self.distributions
        support, slots = torch.unique(laws.ids, return_inverse=True)
        slot_of = torch.full((laws.width + 1,), -1, dtype=torch.int64, device=support.device)
        slot_of[support] = torch.arange(len(support), device=support.device)
        others = (slot_of[:-1] < 0).nonzero().squeeze(-1)
        uniform = None
        if len(others):
            equal = torch.ones(len(others), device=others.device)
            uniform = FixedLaws(ids=others, groups=torch.zeros_like(others), weights=equal, n_target=laws.width)
        object.__setattr__(self, "_support", support)
        object.__setattr__(self, "_local", SparseDistributions(ids=slots, probs=laws.probs, width=len(support)))
        object.__setattr__(self, "_slot_of", slot_of)
        object.__setattr__(self, "_others", uniform)

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        columns = hot.token_map.to_draft(self._support)
        q = hot.probs.index_select(-1, columns.clamp_min(0)).masked_fill(columns < 0, 0.0)
        heights = (1 + self._local.covary(q) / self.temperature).clamp_min(0)
        if self._others is not None:
            heights = F.pad(heights, (0, 1), value=float(self._others.ids.shape[0]))
        return _SupportLaw(heights / heights.sum(-1, keepdim=True), self._support, self._slot_of, self._others)


class _SupportLaw:
    """probs [n, u] over the support, with one column more for all other tokens together if there are any."""

    def __init__(self, probs: Tensor, support: Tensor, slot_of: Tensor, others: FixedLaws | None) -> None:
        self._probs = probs
        self._support = support
        self._slot_of = slot_of
        self._others = others

    def sample(self, randomness: Randomness) -> Tensor:
        slots = randomness.choose(self._probs)
        if self._others is None:
            return self._support[slots]
        n_support = self._support.shape[0]
        other = self._others.sample(torch.zeros_like(slots), randomness)
        return torch.where(slots < n_support, self._support[slots.clamp_max(n_support - 1)], other)

    def prob_of(self, ids: Tensor) -> Tensor:
        slots = self._slot_of[ids]
        probs = self._probs.gather(-1, slots.clamp_min(0).unsqueeze(-1)).squeeze(-1).masked_fill(slots < 0, 0.0)
        return probs if self._others is None else probs + self._others.prob_of(ids, self._probs[:, -1:])

    def dense(self) -> Tensor:
        n_target = self._slot_of.shape[0] - 1
        if self._others is None:
            out = self._probs.new_zeros(self._probs.shape[0], n_target)
        else:
            out = self._others.spread(self._probs[:, -1:])
        return out.index_copy_(-1, self._support, self._probs[:, : self._support.shape[0]])
