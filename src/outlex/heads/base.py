"""The draft-head protocol: from the drafter's hidden states to scores over its draft vocabulary."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from outlex.proposals.base import DraftScores

__all__ = ["DraftHead"]


class DraftHead(Protocol):
    """Scores draft tokens. Static heads ignore the two events; heads that follow the request live on them."""

    @property
    def name(self) -> str:
        """Short name for reports, such as "trimmed-16384"."""

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights read to score one position."""

    def begin(self, prompt_ids: list[int]) -> None:
        """A new request starts; forget the last one."""

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        """The target verified a block.

        Args:
            verified_ids: the tokens it added to the context, accepted drafts first.
            target_logits: its logits [γ + 1, n_target] at the block's positions, as computed (no temperature).
        """

    def score(self, hidden: Tensor) -> DraftScores:
        """Score n positions: hidden [n, d] -> DraftScores with logits [n, n_draft]."""
