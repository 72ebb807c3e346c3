"""A kernel learned from traces: the M that maximises acceptance, among those with given neighbours.

    maximise  mean_s Σ_v min(p_sv, (Mᵀ q'_s)_v)     over M ≥ 0, rows summing to 1, entries only at the neighbours

is concave in M (a minimum of a constant and a linear function, summed), so ascent finds the best there is.
Exponentiated gradient (mirror ascent with one Kullback-Leibler divergence a row, weighted by the mass the row moves):

    M_ik ← M_ik exp(η_t g_ik) / normaliser,    g_ik = Σ_s q'_si [q̃_s < p_s at neighbour k of i] / Σ_s q'_si

g_ik is the share of token i's mass that meets a position where its neighbour k is proposed too little. Ours: RDK (arXiv
2506.03206) derives its kernel from a prior and learns nothing; its form q̃ = Mᵀ q' is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError, MismatchError, NumericalError
from outlex.proposals.sparse_kernel import SparseKernel, redistribute

__all__ = ["Learned"]

_POSITIONS_AT_ONCE = 256
_FIRST_SPREAD = 0.05  # share of a row's mass that starts on its neighbours: ascent multiplies, and 0 stays 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned(SparseKernel):
    """A `SparseKernel` fitted to traces."""

    kind: ClassVar[str] = "learned"

    @classmethod
    def fit(
        cls,
        *,
        neighbours: Tensor,
        n_target: int,
        draft_probs: Tensor,
        target_probs: Tensor,
        held_out: Tensor,
        n_steps: int = 300,
        step_size: float = 1.0,
        patience: int = 30,
    ) -> Learned:
        """Ascend on one part of the positions, stop where the other no longer gains.

        What comes back is the best of all steps on the held-out positions, the identity (TLI) included: there it is
        never worse than TLI.

        Args:
            neighbours: int64 [R, r], for each draft token itself first and then where its mass may go, as ids of the
                target (`outlex.affinity.nearest`).
            n_target: width of the target's head.
            draft_probs: q' [n, R], floating, columns in the order of `neighbours`.
            target_probs: p [n, c] at the ids of `Learned.columns(neighbours)`; floating.
            held_out: bool [n], positions that only judge. Take whole prompts.
            n_steps: at most.
            step_size: η of the first step; η_t = η / √t.
            patience: steps without a gain after which it stops.

        Raises:
            MismatchError: shapes do not fit.
            InputError: no position to learn from, or none to judge with.
            NumericalError: a law holds NaN.
        """
        columns, places = torch.unique(neighbours, return_inverse=True)
        _check(neighbours, draft_probs, target_probs, held_out, n_columns=len(columns))
        judging = _Part(draft_probs[held_out], target_probs[held_out])
        learning = _Part(draft_probs[~held_out], target_probs[~held_out])
        identity = torch.zeros(neighbours.shape, dtype=draft_probs.dtype, device=places.device)
        identity[:, 0] = 1.0
        best, best_value, since = identity, judging.value(identity, places), 0
        weights = identity * (1 - _FIRST_SPREAD) + _FIRST_SPREAD / neighbours.shape[1]
        # a row that never moves any mass has nothing to learn from, and keeps it
        used = learning.moved > 0
        weights = torch.where(used.unsqueeze(-1), weights, identity)
        for step in range(1, n_steps + 1):
            slope = learning.slope(weights, places)
            weights = weights * (step_size / step**0.5 * slope).exp()
            weights = weights / weights.sum(-1, keepdim=True)
            value = judging.value(weights, places)
            since += 1
            if value > best_value:
                best, best_value, since = weights, value, 0
            elif since >= patience:
                break
        return cls(sources=neighbours[:, 0].contiguous(), neighbours=neighbours, weights=best, n_target=n_target)

    @staticmethod
    def columns(neighbours: Tensor) -> Tensor:
        """The tokens at which `fit` needs the target's probabilities: int64 [c], ascending."""
        columns: Tensor = torch.unique(neighbours)
        return columns


class _Part:
    """Positions with both laws: draft_probs [n, R], target_probs [n, c]."""

    def __init__(self, draft_probs: Tensor, target_probs: Tensor) -> None:
        self.moved = draft_probs.sum(0, dtype=torch.float64).to(draft_probs.dtype)
        self._blocks: Sequence[tuple[Tensor, Tensor]] = list(
            zip(
                torch.split(draft_probs, _POSITIONS_AT_ONCE), torch.split(target_probs, _POSITIONS_AT_ONCE), strict=True
            )
        )

    def value(self, weights: Tensor, places: Tensor) -> float:
        """Σ_s Σ_v min(p, q̃) over the columns."""
        return sum(
            float(torch.minimum(p, _moved(q, places, weights, p)).sum(dtype=torch.float64)) for q, p in self._blocks
        )

    def slope(self, weights: Tensor, places: Tensor) -> Tensor:
        """g [R, r], between 0 and 1."""
        slope = torch.zeros_like(weights)
        for q, p in self._blocks:
            short = (_moved(q, places, weights, p) < p).to(q.dtype)
            for k in range(places.shape[1]):
                slope[:, k] += (q * short.index_select(1, places[:, k])).sum(0)
        return slope / torch.where(self.moved > 0, self.moved, 1.0).unsqueeze(-1)


def _moved(q: Tensor, places: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    return redistribute(q, places, weights, torch.zeros_like(like))


def _check(neighbours: Tensor, q: Tensor, p: Tensor, held_out: Tensor, *, n_columns: int) -> None:
    n = q.shape[0]
    fits = neighbours.ndim == q.ndim == p.ndim == 2 and q.dtype == p.dtype and held_out.dtype == torch.bool
    if not fits or (q.shape[1], p.shape, held_out.shape) != (neighbours.shape[0], (n, n_columns), (n,)):
        raise MismatchError(
            "The traces and the neighbours do not fit",
            got=f"neighbours {list(neighbours.shape)}, q' {q.dtype} {list(q.shape)}, p {p.dtype} {list(p.shape)}, "
            f"held out {held_out.dtype} {list(held_out.shape)}",
            expected=f"[R, r], [n, R], [n, {n_columns}], bool [n]; both laws in one dtype",
            next_step="take p at the ids that Learned.columns(neighbours) names, in their order",
        )
    n_held = int(held_out.sum())
    if not 0 < n_held < n:
        raise InputError(
            "Learning needs positions to learn from and others to stop by",
            got=f"{n - n_held} and {n_held}",
            expected="at least one of each; some thousands are better",
            next_step="hold out about a fifth of the prompts",
        )
    if bool(q.isnan().any() | p.isnan().any()):
        raise NumericalError(
            "A kernel cannot be learned from these laws",
            got="NaN among the probabilities",
            next_step="trace again in float32 (--dtype float32)",
        )
