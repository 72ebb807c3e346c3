"""A `Randomness` that does as it is told."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Scripted:
    """Draws given tokens, and lets given numbers of drafts stand.

    Args:
        ids: what `choose` answers, one after the other.
        runs: what `count_accepted` answers; more than there are drafts is all of them.
    """

    def __init__(self, ids: Iterable[int], runs: Iterable[int]) -> None:
        self._ids, self._runs = iter(ids), iter(runs)

    def choose(self, probs: Tensor) -> Tensor:
        return torch.tensor([next(self._ids) for _ in range(probs.shape[0])])

    def count_accepted(self, probs: Tensor) -> Tensor:
        return torch.tensor(min(next(self._runs), probs.shape[0]))
