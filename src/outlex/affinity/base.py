"""The affinity protocol: rows of Ω, the matrix that says how alike two tokens are.

RDK (arXiv 2506.03206) builds its kernel from a token-affinity prior and gives the covariance of the target's next-token
probabilities as the example. Only the paper's abstract and reviews were at hand: that the prior is an interface, and
which other priors there are, is ours.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.parts import Parts

__all__ = ["Affinity", "nearest", "neighbourhood"]

_ROWS_AT_ONCE = 64  # 64 rows of 151,936 in float32 are 39 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class Affinity(Parts):
    """Ω, asked for by rows because the whole would be `n_target`² wide."""

    @property
    @abstractmethod
    def n_target(self) -> int:
        """Width of a row: the target's head, padding included."""

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Ω of some tokens against all.

        Args:
            ids: int64 [k], drafter tokens, as ids of the target unless the affinity says otherwise.

        Returns:
            [k, n_target], float32 or float64. Higher is more alike; -inf is never.
        """


def nearest(affinity: Affinity, ids: Tensor, *, n_neighbours: int, among: Tensor | None = None) -> Tensor:
    """Each token itself, then the tokens it has most affinity to, best first.

    Args:
        affinity: Ω.
        ids: int64 [k], as ids of the target.
        n_neighbours: r, the token itself included.
        among: int64 [m], the tokens that may be neighbours; all by default.

    Returns:
        int64 [k, r]. Where a token has fewer neighbours (the others' affinity is -inf), it fills the rest itself.

    Raises:
        InputError: r is not possible.
    """
    return neighbourhood(affinity, ids, n_neighbours=n_neighbours, among=among)[0]


def neighbourhood(
    affinity: Affinity, ids: Tensor, *, n_neighbours: int, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`nearest`, and the affinities to them [k, r]; -inf where a token fills in itself, but for its first place."""
    n_candidates = affinity.n_target if among is None else among.shape[0]
    if not 1 <= n_neighbours <= n_candidates:
        raise InputError(
            "A token cannot have so many neighbours",
            got=n_neighbours,
            expected=f"from 1 to {n_candidates}, the token itself included",
            next_step="16 to 64 are good starts",
        )
    found, heights = [], []
    for block in torch.split(ids, _ROWS_AT_ONCE):
        own = block.unsqueeze(-1)
        scores = affinity.rows(block)
        itself = scores.gather(1, own)
        scores = scores.scatter(1, own, -torch.inf)  # it comes first anyway
        if among is not None:
            scores = scores.index_select(1, among)
        best = scores.topk(n_neighbours - 1, dim=-1)
        others = best.indices if among is None else among[best.indices]
        found.append(torch.cat([own, torch.where(best.values > -torch.inf, others, own)], -1))
        heights.append(torch.cat([itself, best.values], -1))
    if not found:
        return ids.new_empty(0, n_neighbours), torch.empty(0, n_neighbours, device=ids.device)
    return torch.cat(found), torch.cat(heights)
