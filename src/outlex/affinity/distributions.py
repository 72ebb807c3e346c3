"""Calibration distributions, kept sparse: the few probable tokens of each, which is nearly all of their mass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError, VocabError
from outlex.parts import Parts

__all__ = ["SparseDistributions", "one_hot", "scaled_rows"]

_ELEMENTS_AT_ONCE = 1 << 24  # 64 MB in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseDistributions(Parts):
    """S laws over `width` tokens as a matrix P [S, width] with k entries a row.

    Each row is scaled to sum to 1 when it is made, so that what is cut off does not bias what is built on it: rows of
    their covariance sum to 0.

    Attributes:
        ids: int64 [S, k], tokens.
        probs: floating [S, k], not negative; 0 fills rows that have fewer entries. Kept in the dtype they come in.
        width: of a whole law.

    Raises:
        InputError: shapes, dtypes or values are not those of laws.
        VocabError: ids out of range.
    """

    kind: ClassVar[str] = "sparse-distributions"

    ids: Tensor = field(repr=False)
    probs: Tensor = field(repr=False)
    width: int

    def __post_init__(self) -> None:
        fits = (
            self.ids.ndim == 2
            and self.ids.numel() > 0
            and self.ids.shape == self.probs.shape
            and self.ids.dtype == torch.int64
            and self.probs.is_floating_point()
        )
        mass = self.probs.sum(-1, keepdim=True, dtype=torch.float64) if fits else torch.zeros(1)
        if not fits or not bool((self.probs >= 0).all() & (mass > 0).all() & mass.isfinite().all()):
            raise InputError(
                "These are not distributions over tokens",
                got=f"ids {self.ids.dtype} {list(self.ids.shape)}, probs {self.probs.dtype} {list(self.probs.shape)}, "
                f"smallest row sum {float(mass.min()):.3g}",
                expected="int64 and floating [S, k] of one shape, at least one row, each with positive finite mass",
                next_step="pass probabilities, not logits; drop positions whose logits held NaN",
            )
        if int(self.ids.min()) < 0 or int(self.ids.max()) >= self.width:
            raise VocabError(
                "The distributions name tokens that the vocabulary does not have",
                got=f"ids from {int(self.ids.min())} to {int(self.ids.max())}",
                expected=f"ids from 0 to {self.width - 1}",
                next_step="check that they were computed with the head they are used for",
            )
        object.__setattr__(self, "probs", scaled_rows(self.probs, mass))

    @classmethod
    def from_dense(cls, probs: Tensor, *, n_kept: int) -> SparseDistributions:
        """Keep the `n_kept` most probable tokens of each law: probs [S, width]."""
        best = probs.topk(min(n_kept, probs.shape[-1]), dim=-1)
        return cls(ids=best.indices, probs=best.values, width=probs.shape[-1])

    @property
    def n(self) -> int:
        """S, how many."""
        return self.ids.shape[0]

    def mean(self) -> Tensor:
        """μ [width]: the mean law."""
        return self.combine(self.probs.new_full((1, self.n), 1 / self.n))[0]

    def project(self, values: Tensor) -> Tensor:
        """P x for each row x of values [n, width] -> [n, S]."""
        blocks = torch.split(values, max(1, _ELEMENTS_AT_ONCE // self.ids.numel()))
        # index_select on the last dimension of a flat list is many times quicker than values[:, ids] on a CPU
        flat, probs = self.ids.flatten(), self.probs.to(values.dtype)
        return torch.cat([(block.index_select(1, flat).view(-1, *self.ids.shape) * probs).sum(-1) for block in blocks])

    def combine(self, weights: Tensor) -> Tensor:
        """Pᵀ y for each row y of weights [n, S] -> [n, width]."""
        out = weights.new_zeros(weights.shape[0], self.width)
        flat, probs = self.ids.flatten(), self.probs.to(weights.dtype)
        size = max(1, _ELEMENTS_AT_ONCE // self.ids.numel())
        for part, block in zip(torch.split(out, size), torch.split(weights, size), strict=True):
            part.scatter_add_(1, flat.expand(block.shape[0], -1), (block.unsqueeze(-1) * probs).flatten(1))
        return out

    def covary(self, values: Tensor) -> Tensor:
        """Ω x for each row x of values [n, width] -> [n, width], Ω = PᵀP/S − μμᵀ, without Ω: O(n · S · k).

        With y = P x, Ω x = Pᵀ(y − mean y)/S: subtracting the mean first loses no digits to cancellation.
        """
        y = self.project(values)
        return self.combine((y - y.mean(-1, keepdim=True)) / self.n)

    def columns(self, ids: Tensor) -> Tensor:
        """Columns of P: int64 [b] -> [b, S]."""
        return self.project(one_hot(ids, self.width, self.probs.dtype))


def scaled_rows(weights: Tensor, mass: Tensor) -> Tensor:
    """Rows divided by their mass, in their dtype: weights [n, k], mass float64 [n, 1].

    A row that sums to 1 up to rounding stays as it is: what was scaled once and stored comes back bit for bit.
    """
    scaled = (mass - 1).abs() <= 16 * torch.finfo(weights.dtype).eps
    return torch.where(scaled, weights, weights / mass).to(weights.dtype)


def one_hot(ids: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """int64 [b] -> [b, width] with a 1 in each row."""
    rows = torch.zeros(ids.shape[0], width, dtype=dtype, device=ids.device)
    return rows.scatter_(1, ids.unsqueeze(-1), 1.0)
