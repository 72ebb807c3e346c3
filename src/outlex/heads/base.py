"""The draft-head protocol: from the drafter's hidden states to scores over its draft vocabulary."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from outlex.proposals.base import DraftScores

__all__ = ["DraftHead", "FollowingHead"]


class DraftHead(Protocol):
    """Scores draft tokens. Static heads ignore the two events; heads that follow the request live on them."""

    @property
    def name(self) -> str:
        """Short name for reports, such as "trimmed-16384"."""

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights read to score one position."""

    @property
    def follows_request(self) -> bool:
        """Whether scores depend on `begin` and `observe`; such heads are `FollowingHead`s."""

    @property
    def prompt_logits(self) -> int:
        """At how many of the prompt's last positions, the very last left out, it wants the target's logits; or 0."""

    def begin(self, prompt_ids: list[int]) -> None:
        """A new request starts; forget the last one."""

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        """The target verified a block.

        Args:
            verified_ids: the tokens it added to the context, accepted drafts first: n of them.
            target_logits: its logits [m + n, n_target], as computed (no temperature). The last n rows are those that
                `verified_ids` were accepted against or drawn from, one a token. The m rows before them come with a
                request's first block only: they follow the prompt's tokens −m − 1 … −2, m ≤ `prompt_logits`.

                    prompt      a b c d         verified    x y
                    row          b? c? d?       x? y?                  m = 3, n = 2
        """

    def score(self, hidden: Tensor) -> DraftScores:
        """Score n positions: hidden [n, d] -> DraftScores with logits [n, n_draft]."""


class FollowingHead(DraftHead, Protocol):
    """A head that follows the request, and can do so without the logits themselves: a forecast replays it."""

    @property
    def top_m(self) -> int:
        """How many of the target's most probable tokens a position it looks at."""

    def observe_top(self, verified_ids: list[int], top_ids: Tensor) -> None:
        """`observe`, with int64 [m + n, top_m] in place of the logits: each row's most probable ids, best first."""
