"""The token map of one step: which target token each column of a shortlist stands for.

A `TokenMap` is checked and indexed once and used for a whole request; a shortlist lives for one draft token, so it
holds nothing but its ids.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Shortlist"]


class Shortlist:
    """Columns of one step, with the methods of `outlex.vocab.token_map.TokenMap`.

    Args:
        ids: int64 [k], target ids, each once. Not checked: this is the hot path, and the head that made them knows.
        n_target: width of the target's head.
    """

    __slots__ = ("draft_to_target", "n_target")

    known = None  # every column is a token of the target
    is_identity = False

    def __init__(self, ids: Tensor, *, n_target: int) -> None:
        self.draft_to_target = ids
        self.n_target = n_target

    @property
    def n_draft(self) -> int:
        """Columns."""
        return self.draft_to_target.shape[0]

    @property
    def device(self) -> torch.device:
        return self.draft_to_target.device

    def to_target(self, rows: Tensor) -> Tensor:
        """Target ids of columns (int64, any shape); -1 stays -1."""
        return torch.where(rows < 0, -1, self.draft_to_target[rows])

    def to_draft(self, ids: Tensor) -> Tensor:
        """Columns of target ids (int64, any shape); -1 where an id is not on the list."""
        found = self.draft_to_target == ids.unsqueeze(-1)
        return torch.where(found.any(-1), found.to(torch.uint8).argmax(-1), -1)

    def scatter(self, values: Tensor) -> Tensor:
        """`values [..., k]` as `[..., n_target]`: zero elsewhere."""
        out = values.new_zeros(*values.shape[:-1], self.n_target)
        return out.index_copy_(-1, self.draft_to_target, values)
