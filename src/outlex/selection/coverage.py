"""How many of the tokens a vocabulary covers: for every size, per domain with an interval, and what is lost.

C(k) = Σ_{v ∈ D_k} w_v / Σ_v w_v        w: counts, or the smoothed scores of `outlex.selection.ranking`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.metrics import Estimate, clustered_ratio

__all__ = ["CoverageCurve", "coverage_curve", "coverage_of_counts", "coverage_of_positions", "dropped"]

_Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, eq=False)
class CoverageCurve:
    """C(k) for every size that is possible.

    Attributes:
        smallest: the must-keep tokens, or 1 if there are none.
        first: C(smallest).
        gains: float64 ``[n]``, C(smallest + i + 1) − C(smallest + i).
    """

    smallest: int
    first: float
    gains: Tensor = field(repr=False)

    @property
    def largest(self) -> int:
        """Every token that can be kept."""
        return self.smallest + self.gains.numel()

    @cached_property
    def values(self) -> Tensor:
        """float64 ``[n + 1]``: C(smallest), …, C(largest)."""
        start = torch.tensor([self.first], dtype=torch.float64)
        return torch.cat((start, self.first + self.gains.cumsum(0)))

    @cached_property
    def is_concave(self) -> bool:
        """Whether no row covers more than the one before it."""
        return bool((self.gains.diff() <= 0).all())

    def at(self, size: int) -> float:
        """C(size), for a size from ``smallest`` to ``largest``."""
        return float(self.values[size - self.smallest])


def coverage_curve(order: Tensor, *, must: Tensor, weights: Tensor) -> CoverageCurve:
    """C(k) when the must-keep tokens stay at every size and the others join in their order.

    Args:
        order: int64 ``[n]``, every id that can be kept, once, hottest first.
        must: bool ``[n_tokenizer]``; every marked id is in ``order``.
        weights: ``[n_tokenizer]``, counts or scores, at least 0. Ids outside ``order`` can never be covered, and count.

    Raises:
        InputError: weights that are negative, not finite or all zero.
    """
    weights = _checked(weights)
    shares = weights[order] / weights.sum()
    is_must = must[order]
    others = shares[~is_must]
    if bool(is_must.any()):
        return CoverageCurve(smallest=int(is_must.sum()), first=float(shares[is_must].sum()), gains=others)
    return CoverageCurve(smallest=1, first=float(others[0]), gains=others[1:])


def coverage_of_counts(kept: Tensor, counts: Tensor, documents: Tensor | None = None) -> Estimate:
    """Share of the counted tokens that are kept, with a 95 % interval as far as counts can give one.

    Tokens of one document are not independent: a rare word that occurs once comes again. A dropped token that occurs
    c times in d documents comes in lumps of c/d, so the lost mass has the variance of a compound Poisson law,
    Σ_dropped c²/d / n². That topics bring several rare words at once is not seen in counts, so intervals are somewhat
    too narrow; `coverage_of_positions` knows the texts and has no such gap.

    Args:
        kept: bool ``[n_tokenizer]``.
        counts: int64 ``[n_tokenizer]``.
        documents: int64 ``[n_tokenizer]``, in how many documents each token occurs; without it every token counts as
            independent.

    Returns:
        `n` is the number of tokens. With nothing lost the upper end is 1, and the lower end is what 95 % of such
        samples would show a loss of: 1 − 3/n.

    Raises:
        InputError: counts that are negative, not finite or all zero.
    """
    weights = _checked(counts)
    n = float(weights.sum())
    lost_counts = weights[~kept]
    lost = float(lost_counts.sum()) / n
    lump = torch.ones_like(lost_counts)
    if documents is not None:
        lump = lost_counts / documents.cpu().double()[~kept].clamp(min=1)
    if not lost:
        return Estimate(value=1.0, low=max(0.0, 1 - 3 / n), high=1.0, n=round(n))
    half = _Z95 * float((lost_counts * lump).sum()) ** 0.5 / n
    return Estimate(value=1 - lost, low=max(0.0, 1 - lost - half), high=min(1.0, 1 - lost + half), n=round(n))


def coverage_of_positions(kept: Tensor, token_ids: Tensor, prompt_index: Tensor) -> Estimate:
    """Share of the positions whose token is kept; the interval takes prompts as clusters.

    Args:
        kept: bool ``[n_tokenizer]``.
        token_ids: int64 ``[n]``, such as those of a trace.
        prompt_index: whole numbers ``[n]``, the prompt of each position.
    """
    _, cluster = torch.unique(prompt_index, return_inverse=True)
    sizes = torch.bincount(cluster)
    inside = token_ids < kept.numel()  # a head can say ids that the tokenizer does not have
    is_hit = inside & kept[token_ids.clamp(max=kept.numel() - 1)]
    hits = torch.bincount(cluster, weights=is_hit.double(), minlength=sizes.numel())
    return clustered_ratio(hits.tolist(), sizes.tolist())


def dropped(kept: Tensor, weights: Tensor, *, n: int) -> Tensor:
    """The ``n`` ids of most weight among those not kept, heaviest first; none of weight 0: int64 ``[<= n]``."""
    lost = weights.double().masked_fill(kept, 0)
    ids = torch.sort(lost, descending=True, stable=True).indices[:n]
    return ids[lost[ids] > 0]


def _checked(weights: Tensor) -> Tensor:
    weights = weights.detach().cpu().double()
    total = float(weights.sum())
    if weights.ndim != 1 or not bool((weights >= 0).all()) or not 0 < total < float("inf"):
        raise InputError(
            "Coverage needs one count for each tokenizer entry",
            got=f"{list(weights.shape)}, sum {total}",
            expected="[n_tokenizer], finite, at least 0, not all zero",
            next_step="count the tokens of some text with 'outlex count'",
        )
    return weights
