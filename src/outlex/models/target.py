"""The target protocol: the model whose law is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Target", "TargetOutput"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetOutput:
    """One forward pass of the target over n tokens.

    Attributes:
        logits: [n_logits, n_target], for the last n_logits of the n positions. Row i is the law of the token *after*
            its position.
        features: hidden states of the layers that were asked for, concatenated: [n, n_layers · d]; None if none were.
    """

    logits: Tensor
    features: Tensor | None = None


class Target(Protocol):
    """A causal model with a cache that can be rolled back."""

    @property
    def n_target(self) -> int:
        """Rows of the LM head, padding included."""

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that one forward pass reads."""

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""

    def reset(self) -> None:
        """Forget the context."""

    def forward(self, ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
        """Append tokens, int64 [n], to the context."""

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the context."""
