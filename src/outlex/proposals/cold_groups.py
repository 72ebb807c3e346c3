"""What is left of the rows that trimming took away: groups of them, each with its mean, its spread and a fixed law.

The logit of group g of n_g rows z_v = h · w_v + b_v, over its tokens v:

    log Σ_v exp z_v  ≥  log n_g + z̄                       Jensen; z̄ = h · w̄ + b̄ needs one row
                     ≈  log n_g + z̄ + ½ hᵀ Σ_g h          second order: exact if the logits were normally distributed

and within the group a token is drawn from a prior that does not look at h. With temperature, h stands for h/T.

One group and Jensen's bound are the cold row of the branches that the authors of RDK (arXiv 2506.03206) left in SGLang;
they call the bound too loose. The second-order term and several groups are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.errors import MismatchError
from outlex.parts import Parts
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.cold_rows import ColdRows
from outlex.proposals.fixed_laws import FixedLaws
from outlex.proposals.restoring import Restoring
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams

__all__ = ["ColdGroups", "ColdLaw", "ColdTokens"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ColdGroups(Parts):
    """Groups of cold rows.

    Attributes:
        laws: which tokens are in which group, and the prior within it.
        centroids: floating [G, d + 1], mean row and mean bias of each group.
        basis: floating [r, d + 1], directions in which rows differ within groups; r = 0 is Jensen's bound.
        variances: floating [G, r], variance of a group's rows along each.

    Raises:
        MismatchError: the parts do not fit each other.
    """

    kind: ClassVar[str] = "cold-groups"

    laws: FixedLaws = field(repr=False)
    centroids: Tensor = field(repr=False)
    basis: Tensor = field(repr=False)
    variances: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        n_groups, width = self.centroids.shape
        if (n_groups, self.basis.shape, self.variances.shape) != (
            self.laws.n_groups,
            (self.basis.shape[0], width),
            (n_groups, self.basis.shape[0]),
        ):
            raise MismatchError(
                "The groups of cold rows do not fit their laws",
                got=f"{n_groups} centroids, basis {list(self.basis.shape)}, variances {list(self.variances.shape)}",
                expected=f"{self.laws.n_groups} centroids, one variance a group and direction",
                next_step="fit the proposal again",
            )

    @classmethod
    def fit(cls, cold: ColdRows, groups: Tensor, *, n_target: int, rank: int) -> ColdGroups:
        """Summarise groups of cold rows.

        Args:
            cold: the rows.
            groups: int64 [m], the group of each of `cold.ids`, from 0, none empty.
            n_target: width of the target's head.
            rank: directions of the second-order term, the widest of the rows' pooled covariance within groups; 0 leaves
                the term out. Spread in other directions is not counted.
        """
        blocks = cold.blocks()
        width, like = cold.weight.shape[1] + 1, blocks[0][1]
        groups = groups.to(like.device)
        n_groups = int(groups.max()) + 1
        counts = torch.bincount(groups, minlength=n_groups).to(like.dtype)
        sums = like.new_zeros(n_groups, width)
        for own, rows in blocks:
            sums.index_add_(0, groups[own], rows)
        centroids = sums / counts.unsqueeze(-1)
        basis, variances = like.new_zeros(0, width), like.new_zeros(n_groups, 0)
        if rank:
            scatter = like.new_zeros(width, width)
            for own, rows in blocks:
                apart = rows - centroids[groups[own]]
                scatter += apart.T @ apart
            basis = torch.linalg.eigh(scatter).eigenvectors[:, -min(rank, width) :].T.contiguous()
            variances = like.new_zeros(n_groups, basis.shape[0])
            for own, rows in blocks:
                variances.index_add_(0, groups[own], F.linear(rows - centroids[groups[own]], basis).square())
            variances = variances / counts.unsqueeze(-1)
        weights = torch.ones(len(cold.ids)) if cold.prior is None else cold.prior[cold.ids.to(cold.prior.device)]
        ids, weights = cold.ids.to(like.device), weights.to(like.device)
        laws = FixedLaws(ids=ids, groups=groups, weights=weights, n_target=n_target)
        return cls(laws=laws, centroids=centroids, basis=basis, variances=variances)

    def logits(self, hidden: Tensor, temperature: float) -> Tensor:
        """log Σ exp(z/T) of each group, as estimated: hidden [n, d] -> [n, G]."""
        h = F.pad(hidden.to(self.centroids.dtype), (0, 1), value=1.0) / temperature
        spread = F.linear(F.linear(h, self.basis).square(), self.variances) / 2
        return F.linear(h, self.centroids) + self.laws.sizes.log() + spread

    def masses(self, scores: DraftScores, params: SamplingParams) -> Tensor:
        """Estimated share of each group in the drafter's whole law: [n, G]; rows sum to less than 1.

        Top-k, top-p and min-p do not enter: they are filters of a law that is not known token by token. At temperature
        0 nothing is restored, as the arg-max is nearly always hot.
        """
        n_groups = self.laws.n_groups
        if params.greedy:
            return scores.hidden.new_zeros(scores.hidden.shape[0], n_groups).to(_wide(scores.logits))
        logits, known = scores.logits.to(_wide(scores.logits)), scores.token_map.known
        if known is not None:
            logits = logits.masked_fill(~known, -torch.inf)
        hot = (logits / params.temperature).logsumexp(-1, keepdim=True)
        cold = self.logits(scores.hidden, params.temperature).to(hot.dtype)
        return torch.cat([hot, cold], -1).softmax(-1)[:, 1:]


@dataclass(frozen=True, kw_only=True, eq=False)
class ColdTokens(Restoring):
    """q ↦ q̃ with mass restored to groups of cold tokens; how they are grouped makes the proposal.

    Attributes:
        cold: the groups.
    """

    cold: ColdGroups

    def cold_mass(self, scores: DraftScores, params: SamplingParams) -> Tensor:
        """Estimated mass that q would have on cold tokens: [n]."""
        return self.cold.masses(scores, params).sum(-1)

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        return ColdLaw(hot, self.cold.laws, self.cold.masses(scores, params))


class ColdLaw:
    """(1 − Σ_g m_g) q' + Σ_g m_g · (law of group g). Draws the group with the hot columns, then the token.

    A token may be hot and cold at once, where a head took it in after the groups were fitted: both parts count.
    """

    def __init__(self, hot: HotLaw, groups: FixedLaws, masses: Tensor) -> None:
        left = (1 - masses.sum(-1, keepdim=True)).clamp_min(0)  # rounding may put a sum of nearly 1 above it
        self._hot = HotLaw(hot.probs * left, hot.token_map)
        self._groups = groups
        self._masses = masses

    def sample(self, randomness: Randomness) -> Tensor:
        chosen = randomness.choose(torch.cat([self._hot.probs, self._masses], -1))
        n_draft = self._hot.probs.shape[-1]
        # where a hot column was drawn, a cold token is drawn as well: nothing here waits for the device to tell
        cold = self._groups.sample((chosen - n_draft).clamp_min(0), randomness)
        return torch.where(chosen < n_draft, self._hot.token_map.to_target(chosen.clamp_max(n_draft - 1)), cold)

    def prob_of(self, ids: Tensor) -> Tensor:
        return self._hot.prob_of(ids) + self._groups.prob_of(ids, self._masses)

    def dense(self) -> Tensor:
        return self._hot.dense() + self._groups.spread(self._masses)


def _wide(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32
