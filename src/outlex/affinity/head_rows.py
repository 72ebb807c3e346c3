"""Affinity of tokens whose head rows point the same way: needs no calibration text at all. Ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from outlex.affinity.base import Affinity
from outlex.errors import InputError

__all__ = ["HeadCosine"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadCosine(Affinity):
    """Ω_ij = cos(w_i, w_j), in [-1, 1]; 0 for a row of zeros.

    Attributes:
        weight: floating [n_target, d], the rows of a head, one a token of the target. Kept in float32 (float64 stays),
            scaled to length 1.

    Raises:
        InputError: not a floating-point matrix.
    """

    kind: ClassVar[str] = "head-cosine"

    weight: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            raise InputError(
                "This is not the weight of an LM head",
                got=f"{self.weight.dtype} of shape {list(self.weight.shape)}",
                expected="a floating-point matrix [n_target, hidden size]",
                next_step="load the model without quantisation",
            )
        wide = self.weight.dtype if self.weight.dtype == torch.float64 else torch.float32
        object.__setattr__(self, "weight", F.normalize(self.weight.to(wide), dim=-1))

    @property
    def n_target(self) -> int:
        return self.weight.shape[0]

    def rows(self, ids: Tensor) -> Tensor:
        return F.linear(self.weight.index_select(0, ids), self.weight)
