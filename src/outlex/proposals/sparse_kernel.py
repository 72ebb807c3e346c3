"""A kernel with few entries a row: q̃ = Mᵀ q', drawn and looked up without ever making q̃.

    draw      i ~ q', then j ~ M_i
    look up   q̃(x) = Σ_i q'_i M_ix        one column of M: the few rows that lead to x
    dense     only where a draft was rejected

Tokens without a row keep their mass, so one kernel serves any draft head of its target. The form q̃ = Mᵀ q' is that of
RDK (arXiv 2506.03206); sparse rows and their lazy evaluation are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.affinity.base import Affinity, neighbourhood
from outlex.affinity.distributions import scaled_rows
from outlex.errors import InputError
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.restoring import Restoring
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams

__all__ = ["SparseKernel", "redistribute"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseKernel(Restoring):
    """M with r entries a row.

    Attributes:
        sources: int64 [R], the tokens that have a row, as ids of the target, each at most once.
        neighbours: int64 [R, r], where their mass goes; an id may come twice in a row.
        weights: floating [R, r], not negative; rows are scaled to sum to 1.
        n_target: width of the target's head.

    Raises:
        InputError: shapes or values do not fit.
    """

    kind: ClassVar[str] = "sparse-kernel"

    sources: Tensor = field(repr=False)
    neighbours: Tensor = field(repr=False)
    weights: Tensor = field(repr=False)
    n_target: int

    _row_of: Tensor = field(init=False, repr=False)  # int64 [n_target + 1], -1 without a row
    _column_start: Tensor = field(init=False, repr=False)  # int64 [n_target + 1]: column x is start[x] : start[x + 1]
    _column_steps: Tensor = field(init=False, repr=False)  # int64 [longest column], 0, 1, 2 …
    _column_sources: Tensor = field(init=False, repr=False)  # int64 [R r], by column
    _column_weights: Tensor = field(init=False, repr=False)  # [R r]

    def __post_init__(self) -> None:
        _check(self)
        device = self.sources.device
        # float64: a law in float64 must be the same one drawn and looked up, to the last digits
        weights = scaled_rows(self.weights.double(), self.weights.sum(-1, keepdim=True, dtype=torch.float64))
        row_of = torch.full((self.n_target + 1,), -1, dtype=torch.int64, device=device)
        row_of[self.sources] = torch.arange(len(self.sources), device=device)
        flat = self.neighbours.flatten()
        order = flat.argsort(stable=True)
        lengths = torch.bincount(flat, minlength=self.n_target)
        start = torch.zeros(self.n_target + 1, dtype=torch.int64, device=device)
        start[1:] = lengths.cumsum(0)
        for name, value in {
            "weights": weights,
            "_row_of": row_of,
            "_column_start": start,
            "_column_steps": torch.arange(int(lengths.max()), device=device),
            "_column_sources": self.sources.repeat_interleave(self.neighbours.shape[1])[order],
            "_column_weights": weights.flatten()[order],
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_affinity(
        cls,
        affinity: Affinity,
        sources: Tensor,
        *,
        temperature: float,
        n_neighbours: int,
        among: Tensor | None = None,
    ) -> SparseKernel:
        """RDK with r entries a row: softmax(Ω / T_Ω) over a token itself and its nearest neighbours.

        Args:
            affinity: Ω.
            sources: int64 [R], tokens that get a row, as ids of the target.
            temperature: T_Ω > 0.
            n_neighbours: r, the token itself included.
            among: int64 [m], tokens that may be neighbours, besides the token itself.

        Raises:
            InputError: numbers out of range.
        """
        if not 0 < temperature < float("inf"):
            raise InputError(
                "No kernel can be made so",
                got=f"temperature={temperature}",
                expected="a finite temperature above 0",
                next_step="co-occurrence is made for temperature 1, cosines for 0.1",
            )
        ids, heights = neighbourhood(affinity, sources, n_neighbours=n_neighbours, among=among)
        heights = heights.double() / temperature
        alone = (heights == -torch.inf).all(-1)
        heights[:, 0] = torch.where(alone, 0.0, heights[:, 0])  # no affinity to anything: it keeps its mass
        return cls(sources=sources, neighbours=ids, weights=heights.softmax(-1).float(), n_target=affinity.n_target)

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        del scores, params
        return _KernelLaw(hot, self)

    def column(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Column x of M for each x of ids [n]: source tokens int64 [n, c] (-1 is padding), weights [n, c]."""
        # an id of -1 wraps to a start behind everything and an end of 0: its column is empty
        places = self._column_start[ids].unsqueeze(-1) + self._column_steps
        inside = places < self._column_start[ids + 1].unsqueeze(-1)
        places = places.clamp_max(self._column_sources.shape[0] - 1)
        return (
            self._column_sources[places].masked_fill(~inside, -1),
            self._column_weights[places].masked_fill(~inside, 0.0),
        )


class _KernelLaw:
    def __init__(self, hot: HotLaw, kernel: SparseKernel) -> None:
        self._hot = hot
        self._kernel = kernel

    def sample(self, randomness: Randomness) -> Tensor:
        ids = self._hot.sample(randomness)
        rows = self._kernel._row_of[ids]
        stays = rows < 0
        # a token that stays makes its draw as well: nothing here waits for the device to tell
        slots = randomness.choose(self._kernel.weights[rows.clamp_min(0)]).unsqueeze(-1)
        moved = self._kernel.neighbours[rows.clamp_min(0)].gather(-1, slots).squeeze(-1)
        return torch.where(stays, ids, moved)

    def prob_of(self, ids: Tensor) -> Tensor:
        sources, weights = self._kernel.column(ids)
        columns = self._hot.token_map.to_draft(sources)
        q = self._hot.probs.gather(-1, columns.clamp_min(0)).masked_fill(columns < 0, 0.0)
        stays = self._kernel._row_of[ids] < 0
        return (q * weights.to(q.dtype)).sum(-1) + self._hot.prob_of(ids).masked_fill(~stays, 0.0)

    def dense(self) -> Tensor:
        kernel = self._kernel
        q = self._hot.dense()
        out = q.index_fill(-1, kernel.sources, 0.0)
        moving = q.index_select(-1, kernel.sources)
        return redistribute(moving, kernel.neighbours, kernel.weights.to(q.dtype), out)


def redistribute(mass: Tensor, places: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Add Mᵀ mass to `out` in place: mass [n, R], places int64 [R, r], weights [R, r], out [n, width] -> out.

    As a loop: `out[:, places[i, k]] += mass[:, i] * weights[i, k]`.
    """
    for k in range(places.shape[1]):
        out.scatter_add_(1, places[:, k].expand(mass.shape[0], -1), mass * weights[:, k])
    return out


def _check(kernel: SparseKernel) -> None:
    sources, neighbours, weights = kernel.sources, kernel.neighbours, kernel.weights
    fits = (
        (sources.ndim, neighbours.ndim) == (1, 2)
        and sources.numel() > 0
        and neighbours.shape == weights.shape
        and neighbours.shape[0] == sources.shape[0]
        and neighbours.shape[1] > 0
        and sources.dtype == neighbours.dtype == torch.int64
        and weights.is_floating_point()
    )
    mass = weights.sum(-1, dtype=torch.float64) if fits else torch.zeros(1)
    if not fits or not bool((weights >= 0).all() & (mass > 0).all() & mass.isfinite().all()):
        raise InputError(
            "These are not the rows of a kernel",
            got=f"sources {sources.dtype} {list(sources.shape)}, neighbours {neighbours.dtype} "
            f"{list(neighbours.shape)}, weights {weights.dtype} {list(weights.shape)}",
            expected="int64 [R], int64 and floating [R, r], each row not negative and with positive finite mass",
            next_step="find neighbours with outlex.affinity.nearest, which puts each token itself first",
        )
    named = torch.cat([sources, neighbours.flatten()])
    low, high = int(named.min()), int(named.max())
    if low < 0 or high >= kernel.n_target or int(torch.unique(sources).numel()) != sources.numel():
        raise InputError(
            "The kernel names tokens that the target does not have, or one of them has two rows",
            got=f"ids from {low} to {high}, {sources.numel() - int(torch.unique(sources).numel())} repeated rows",
            expected=f"ids from 0 to {kernel.n_target - 1}, one row a token",
            next_step="check that the ids are absolute, not offsets",
        )
