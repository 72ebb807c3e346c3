"""Redistribution of drafter kernels (RDK), exact: q̃ = Mᵀ q', M row-stochastic over the target's vocabulary.

    M_ij = exp(Ω_ij / T_Ω) / Σ_k exp(Ω_ik / T_Ω)          O(|D| · n_target), all of it at every draft step

arXiv 2506.03206. Only its abstract and published reviews were at hand. Theirs: q̃ = Mᵀ q' from a token-affinity prior,
and the softmax of a covariance as the example. Ours: that Ω is any `Affinity`; that a token without any affinity
(a row of -inf) keeps its mass; that M is applied after temperature and filters, to the law that TLI would propose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.affinity.base import Affinity
from outlex.affinity.distributions import one_hot, scaled_rows
from outlex.errors import InputError
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.restoring import DenseLaw, Restoring
from outlex.sampling import SamplingParams

__all__ = ["DenseKernel", "RdkExact"]

_LARGEST_DENSE = 8192  # M of that width has 256 MB in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseKernel(Restoring):
    """Any M, held whole: for small vocabularies, and for tests of everything that is faster.

    Attributes:
        matrix: floating [n_target, n_target]; row i says where the mass of token i goes. Rows are scaled to sum to 1.

    Raises:
        InputError: not square, negative, or a row without mass.
    """

    kind: ClassVar[str] = "dense-kernel"

    matrix: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        matrix = self.matrix
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] and matrix.is_floating_point()
        mass = matrix.sum(-1, keepdim=True, dtype=torch.float64) if square else torch.zeros(1)
        if not square or not bool((matrix >= 0).all() & (mass > 0).all() & mass.isfinite().all()):
            raise InputError(
                "This matrix cannot redistribute probability",
                got=f"{matrix.dtype} {list(matrix.shape)}, smallest row sum {float(mass.min()):.3g}",
                expected="a square floating-point matrix, not negative, each row with positive finite mass",
                next_step="give a token that is to keep its mass a 1 on the diagonal",
            )
        object.__setattr__(self, "matrix", scaled_rows(matrix, mass))

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        q = hot.dense()
        return DenseLaw(q @ self.matrix.to(q.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class RdkExact(Restoring):
    """RDK as defined. Rows of M are made a block at a time and never kept, so memory is `block` × `n_target`.

    Attributes:
        affinity: Ω.
        temperature: T_Ω > 0. Small is a kernel that sends all to the most alike token; large is a uniform one.
        block: rows of M made at once.

    Raises:
        InputError: numbers out of range.
    """

    kind: ClassVar[str] = "rdk-exact"

    affinity: Affinity
    temperature: float
    block: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf") or self.block < 1:
            raise InputError(
                "This kernel cannot be computed",
                got=f"temperature={self.temperature}, block={self.block}",
                expected="a finite temperature above 0, a block of at least 1",
                next_step="a covariance of probabilities has entries below 0.25: temperatures from 1e-6 to 1e-2 matter",
            )

    def kernel_rows(self, ids: Tensor) -> Tensor:
        """Rows of M: int64 [k] -> [k, n_target]."""
        scores = self.affinity.rows(ids)
        alone = scores.amax(-1, keepdim=True) == -torch.inf
        rows = torch.where(alone, 0.0, scores / self.temperature).softmax(-1)
        return torch.where(alone, one_hot(ids, rows.shape[-1], rows.dtype), rows)

    def as_dense(self) -> DenseKernel:
        """The same kernel with M kept.

        Raises:
            InputError: the vocabulary is too wide for that.
        """
        n = self.affinity.n_target
        if n > _LARGEST_DENSE:
            raise InputError(
                "The whole kernel would not fit",
                got=f"{n} × {n} numbers",
                expected=f"a vocabulary of at most {_LARGEST_DENSE} tokens",
                next_step="use the proposal as it is: it makes the rows it needs, a block at a time",
            )
        blocks = torch.split(torch.arange(n, device=self.device), self.block)
        return DenseKernel(matrix=torch.cat([self.kernel_rows(ids) for ids in blocks]))

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        ids = hot.token_map.draft_to_target
        q = hot.probs.masked_fill(ids < 0, 0.0)  # columns unknown to the target have no row
        out = q.new_zeros(q.shape[0], self.affinity.n_target)
        for weights, own in zip(
            torch.split(q, self.block, dim=1), torch.split(ids.clamp_min(0), self.block), strict=True
        ):
            out += weights @ self.kernel_rows(own).to(q.dtype)
        return DenseLaw(out)
