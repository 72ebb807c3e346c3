"""What a share λ of another proposal beside TLI would gain at each position, for a whole grid of λ at once.

    gain(λ) = Σ_v min(p_v, (1 − λ) q'_v + λ r_v) − Σ_v min(p_v, q'_v)

It is concave in λ at every position, 0 at λ = 0. Cold tokens have q' = 0 and gain min(p, λ r): only those that the
target finds possible at all have to be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.metrics import Estimate, clustered_ratio
from outlex.proposals.base import HotLaw, ProposalLaw

__all__ = ["Contest", "best_weight", "mean_gain"]

_FLOOR = 1e-7


@dataclass(frozen=True, kw_only=True, eq=False)
class Contest:
    """p and q' at n positions, in the places where mixtures can differ from q'.

    Cold tokens with p below 1e-7 are left out, about a thousandth of the mass of 151,936 tokens at most. Each could
    only have added to the gain, so gains are understated by that much, never overstated.

    Attributes:
        hot: q'.
        p_hot: p at the draft columns [n, n_draft], 0 at columns that the target lacks.
        rows, columns: int64 [m], position and token of the cold places that count.
        p_cold: p there [m].
    """

    hot: HotLaw
    p_hot: Tensor = field(repr=False)
    rows: Tensor = field(repr=False)
    columns: Tensor = field(repr=False)
    p_cold: Tensor = field(repr=False)

    @classmethod
    def of(cls, hot: HotLaw, p: Tensor) -> Contest:
        """From q' and p [n, n_target] of the same positions."""
        ids = hot.token_map.draft_to_target
        cold = p.index_fill(-1, ids[ids >= 0], 0.0)
        rows, columns = (cold > _FLOOR).nonzero(as_tuple=True)
        return cls(hot=hot, p_hot=_at(p, ids), rows=rows, columns=columns, p_cold=cold[rows, columns])

    def gains(self, other: ProposalLaw, grid: Sequence[float]) -> Tensor:
        """gain(λ) at each position and λ of the grid: float64 [n, len(grid)]."""
        r = other.dense()
        q, r_hot = self.hot.probs, _at(r, self.hot.token_map.draft_to_target)
        r_cold = r[self.rows, self.columns]
        base = torch.minimum(self.p_hot, q).sum(-1, dtype=torch.float64)
        found = []
        for share in grid:
            inside = torch.minimum(self.p_hot, torch.lerp(q, r_hot, share)).sum(-1, dtype=torch.float64)
            outside = torch.minimum(self.p_cold, share * r_cold).double()
            found.append((inside - base).index_add(0, self.rows, outside))
        return torch.stack(found, -1)


def best_weight(gains: Tensor, clusters: Tensor, grid: Sequence[float], *, margin: float = 1.0) -> float:
    """λ of the largest mean gain; 0 where that is not clearly above 0.

    Args:
        gains: float64 [n, len(grid)].
        clusters: int64 [n], the prompt of each position: positions of one prompt resemble each other.
        grid: λ, ascending.
        margin: the gain must exceed so many half widths of its 95 % interval over clusters; 0 takes every gain.
    """
    if not len(gains):
        return 0.0
    best = int(gains.mean(0).argmax())
    found = mean_gain(gains[:, best], clusters)
    wanted = margin * (found.high - found.value) if margin else 0.0
    return grid[best] if found.value > wanted else 0.0  # a single cluster has no interval: NaN exceeds nothing


def mean_gain(gains: Tensor, clusters: Tensor, *, confidence: float = 0.95) -> Estimate:
    """Mean over positions, with an interval over clusters: gains float64 [n], clusters int64 [n]."""
    place = torch.unique(clusters, return_inverse=True)[1]
    counts = torch.bincount(place)
    sums = gains.new_zeros(len(counts)).index_add_(0, place, gains)
    return clustered_ratio(sums.tolist(), counts.tolist(), confidence=confidence)


def _at(law: Tensor, ids: Tensor) -> Tensor:
    """Columns of a law [n, n_target] at target ids; 0 for -1."""
    return law.index_select(-1, ids.clamp_min(0)).masked_fill(ids < 0, 0.0)
