"""Affinity of tokens that are probable in the same contexts, from S calibration distributions P [S, n_target].

    covariance     Ω_ij = E[P_i P_j] − E[P_i] E[P_j]                      the example of RDK, arXiv 2506.03206
    correlation    Ω_ij / √(Ω_ii Ω_jj)                                    ours
    co-occurrence  log E[Q_i P_j] − log E[Q_i]                            ours: softmax at temperature 1 gives the law
                                                                          of the target where the drafter says i

The paper's abstract does not say how many contexts, of which texts, or whether they are truncated; here they are what
the caller passes, each cut to its most probable tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.affinity.base import Affinity
from outlex.affinity.distributions import SparseDistributions, one_hot
from outlex.errors import MismatchError

__all__ = ["CoOccurrence", "Correlation", "Covariance"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Covariance(Affinity):
    """Covariance of two tokens' probabilities; each row sums to 0.

    Attributes:
        distributions: the target's, over `n_target` tokens.
    """

    kind: ClassVar[str] = "covariance"

    distributions: SparseDistributions = field(repr=False)

    @property
    def n_target(self) -> int:
        return self.distributions.width

    def rows(self, ids: Tensor) -> Tensor:
        return self.distributions.covary(one_hot(ids, self.n_target, self.distributions.probs.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class Correlation(Affinity):
    """Covariance in units of both standard deviations, in [-1, 1]; 0 where one of the tokens never varies.

    Attributes:
        distributions: the target's, over `n_target` tokens.
    """

    kind: ClassVar[str] = "correlation"

    distributions: SparseDistributions = field(repr=False)
    deviation: Tensor = field(init=False, repr=False)  # [n_target]

    def __post_init__(self) -> None:
        laws = self.distributions
        squares = torch.zeros(laws.width, dtype=torch.float64, device=laws.ids.device)
        squares.index_add_(0, laws.ids.flatten(), laws.probs.double().square().flatten() / laws.n)
        variance = squares - laws.mean().double().square()
        object.__setattr__(self, "deviation", variance.clamp_min(0).sqrt().to(laws.probs.dtype))

    @property
    def n_target(self) -> int:
        return self.distributions.width

    def rows(self, ids: Tensor) -> Tensor:
        covariance = Covariance(distributions=self.distributions).rows(ids)
        scale = self.deviation[ids].unsqueeze(-1) * self.deviation
        return torch.where(scale > 0, covariance / torch.where(scale > 0, scale, 1.0), 0.0).clamp(-1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CoOccurrence(Affinity):
    """log of the mean law `then`, weighted by how probable the token is in `given`; -inf where that is 0.

    Attributes:
        given: Q [S, n_rows], the drafter's laws, or the target's once more. A row of the affinity stands for a column
            of Q.
        then: P [S, n_target], the target's laws at the same S positions.

    Raises:
        MismatchError: not as many laws on both sides.
    """

    kind: ClassVar[str] = "co-occurrence"

    given: SparseDistributions = field(repr=False)
    then: SparseDistributions = field(repr=False)

    def __post_init__(self) -> None:
        if self.given.n != self.then.n:
            raise MismatchError(
                "Co-occurrence needs two laws at each position",
                got=f"{self.given.n} and {self.then.n} distributions",
                expected="the same number, of the same positions in the same order",
                next_step="compute both from the same rows of the traces",
            )

    @property
    def n_target(self) -> int:
        return self.then.width

    def rows(self, ids: Tensor) -> Tensor:
        weights = self.given.columns(ids)  # [b, S]
        joint = self.then.combine(weights.to(self.then.probs.dtype))
        return (joint / joint.sum(-1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)).log()
