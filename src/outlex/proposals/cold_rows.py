"""The rows that trimming took away from a drafter's head: what proposals for cold tokens are fitted from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.errors import InputError

__all__ = ["ColdRows"]

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class ColdRows:
    """The rows of the drafter's head that its trimmed head lacks, as they are before the proposal is fitted.

    Attributes:
        weight: floating [n_rows, d], the whole head.
        ids: int64 [m], the cold rows, as ids of the target.
        rows_of: int64 [m], where they are in `weight`; None where a row's place is its id.
        bias: [n_rows] or None.
        scale: what the model multiplies its logits by.
        prior: how probable each token of the target is, any scale; equal by default.

    Raises:
        InputError: not a head, no cold row, or a prior that is too short.
    """

    weight: Tensor = field(repr=False)
    ids: Tensor = field(repr=False)
    rows_of: Tensor | None = field(default=None, repr=False)
    bias: Tensor | None = field(default=None, repr=False)
    scale: float = 1.0
    prior: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n_rows = self.weight.shape[0]
        places = self.ids if self.rows_of is None else self.rows_of
        fits = (
            self.weight.ndim == 2
            and self.weight.is_floating_point()
            and self.ids.dtype == torch.int64
            and self.ids.numel() > 0
            and places.shape == self.ids.shape
            and 0 <= int(places.min()) <= int(places.max()) < n_rows
            and int(self.ids.min()) >= 0
            and (self.bias is None or self.bias.shape == (n_rows,))
            and (self.prior is None or (self.prior.ndim == 1 and len(self.prior) > int(self.ids.max())))
        )
        if not fits:
            raise InputError(
                "These are not the cold rows of a head",
                got=f"weight {self.weight.dtype} {list(self.weight.shape)}, {self.ids.numel()} ids",
                expected="a floating-point matrix [n_rows, hidden size], at least one id of it, and a bias and a prior "
                "of one number a row",
                next_step="where nothing is cold there is nothing to restore: use TLI",
            )

    def rows(self, start: int, end: int) -> Tensor:
        """Some of them with the bias as a last coordinate: float32 (or 64) [end − start, d + 1]."""
        own = (self.ids if self.rows_of is None else self.rows_of)[start:end].to(self.weight.device)
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        weight = self.weight.index_select(0, own).to(dtype)
        bias = weight.new_zeros(len(own)) if self.bias is None else self.bias.index_select(0, own).to(dtype)
        return torch.cat([weight, bias.unsqueeze(-1)], -1) * self.scale

    def blocks(self) -> list[tuple[slice, Tensor]]:
        """Places and rows of all of them, a few thousand at a time."""
        starts = range(0, len(self.ids), _ROWS_AT_ONCE)
        ends = [min(start + _ROWS_AT_ONCE, len(self.ids)) for start in starts]
        return [(slice(start, end), self.rows(start, end)) for start, end in zip(starts, ends, strict=True)]
