"""The drafter protocol: what turns verified tokens into hidden states that a draft head can score.

Two kinds fit it. An *independent* drafter is a smaller model with its own cache; it needs tokens only. A
*feature-conditioned* drafter (EAGLE, MTP) reads the target's hidden states as well:

    token       x1  x2  x3  x4          verified_ids = [x2, x3, x4]   (the first call: the prompt without x1, and x4)
    target f    f1  f2  f3              features     = [f1, f2, f3]   row j is the state *before* verified_ids[j]
                  ╲   ╲   ╲
    pairs       (x2,f1)(x3,f2)(x4,f3)   the hidden state of the last pair predicts x5
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from outlex.heads.base import DraftHead

__all__ = ["Drafter"]


class Drafter(Protocol):
    """Proposes hidden states, one draft position after the other."""

    head: DraftHead

    @property
    def name(self) -> str:
        """Short name for reports."""

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Layers of the target whose hidden states `advance` wants; empty for independent drafters."""

    @property
    def max_length(self) -> int:
        """Longest context in tokens. Beyond it nothing is drafted and the target goes on alone."""

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that one draft step reads, head included."""

    def begin(self) -> None:
        """A new request starts: empty the cache."""

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        """Take in newly verified tokens, after undoing whatever `step` did that was rejected.

        Args:
            verified_ids: tokens that joined the context since the last call, int64 [n], n ≥ 1. The first call gets the
                prompt: all of it for an independent drafter; for a feature-conditioned one the prompt without its
                first token, and the target's first token.
            n_accepted: how many of them, from the front, are this drafter's own accepted drafts.
            features: the target's hidden states at the position before each verified token,
                [n, n_layers · d]; None if `feature_layers` is empty.

        Returns:
            Hidden state [1, d] that predicts the token after the last one.
        """

    def step(self, draft_id: Tensor) -> Tensor:
        """Go on from an own draft token, int64 [1] -> hidden state [1, d] that predicts the next one."""
