"""The request's own vocabulary: the tokens that a text is likely to use again.

NanoSpec (arXiv 2605.26444): tokens of the prompt, tokens that were verified, and the target's most probable ones at the
positions it was shown. What was drafted came out of the draft vocabulary and need not join it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.vocab.shortlist import Shortlist

__all__ = ["RequestTokens", "check_looks"]


def check_looks(*, top_m: int, prompt_logits: int, n_target: int, name: str) -> None:
    """Refuse numbers with which a head cannot look at the target's most probable tokens.

    Raises:
        InputError: out of range.
    """
    if not 0 <= top_m <= n_target or prompt_logits < 0:
        raise InputError(
            f"The {name} head cannot look at so many tokens",
            got=f"top_m={top_m}, prompt_logits={prompt_logits}",
            expected=f"top_m from 0 to {n_target}, prompt_logits of at least 0",
            next_step="top_m=8 and prompt_logits=256 are good starts",
        )


class RequestTokens:
    """Columns of a draft head that follows the request: fixed ones in front, then those that joined.

        columns   s0 s1 s2 │ a b c d . . .        n_static = 3, capacity = 7, 4 of them used

    When the capacity is used up, whatever joined first leaves first, and what joins takes its column. Of a prompt the
    tokens join in the order of their last appearance, so those that appear latest stay longest.

    A token map that was handed out is never changed: columns are only appended to the ids it is a view of, and once a
    column is given to another token there are new ids. What a step needs of this class waits for no device; what
    `join` is told are numbers on the host.

    Args:
        static_ids: int64 [n_static], ids that are always there.
        n_tokens: ids from there on cannot join, because the drafter's head or the target's has no such row.
        n_target: width of the target's head.
        capacity: columns for the request's tokens.

    Raises:
        InputError: a capacity below 1.
    """

    def __init__(self, static_ids: Tensor, *, n_tokens: int, n_target: int, capacity: int) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise InputError(
                "This is no capacity for a request's tokens",
                got=capacity,
                expected="an integer >= 1, the most different tokens to keep of one request",
                next_step="2048 holds long prompts",
            )
        self.n_static = static_ids.shape[0]
        self.capacity = capacity
        self._n_tokens = n_tokens
        self._n_target = n_target
        self._static = frozenset(static_ids.tolist())
        self._first_ids = torch.cat([static_ids, static_ids.new_zeros(capacity)])
        self._ids = self._first_ids.clone()
        self._column_of: dict[int, int] = {}  # in the order of joining
        self.token_map = Shortlist(self._ids[: self.n_static], n_target=n_target)

    @property
    def n_used(self) -> int:
        """Columns in use, the static ones included."""
        return self.n_static + len(self._column_of)

    def begin(self, prompt_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Forget the last request and take in the prompt of the next.

        Returns:
            As `join`.

        Raises:
            InputError: the prompt has more different tokens than there are columns for them.
        """
        by_last_place = list(dict.fromkeys(reversed(prompt_ids)))[::-1]
        n_joining = sum(map(self._may_join, by_last_place))
        if n_joining > self.capacity:
            raise InputError(
                "The prompt has more different tokens than the draft head keeps of a request",
                got=f"a capacity of {self.capacity}",
                expected=f"at least {n_joining}, and more for the tokens of the answer",
                next_step=f"make the head with capacity={2 * n_joining}",
            )
        self._column_of = {}
        self._ids = self._first_ids.clone()
        return self.join(by_last_place)

    @torch.inference_mode()
    def join(self, ids: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Let tokens join, one after the other; those that are there already keep their columns.

        Returns:
            Columns that belong to another token than before, int64 [k], each once, and their tokens, int64 [k].
        """
        changed: dict[int, int] = {}
        n_kept = self.n_used
        for token_id in ids:
            if token_id in self._column_of or not self._may_join(token_id):
                continue
            column = self.n_used
            if len(self._column_of) == self.capacity:
                column = self._column_of.pop(next(iter(self._column_of)))
            self._column_of[token_id] = column
            changed[column] = token_id
        columns, tokens = self._ids.new_tensor([list(changed), list(changed.values())]).view(2, -1)
        if changed:
            if min(changed) < n_kept:
                self._ids = self._ids.clone()
            self._ids.index_copy_(0, columns, tokens)
        self.token_map = Shortlist(self._ids[: self.n_used], n_target=self._n_target)
        return columns, tokens

    def join_observed(self, verified_ids: Sequence[int], top_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`join` with what the target verified, and its most probable ids at the positions it was shown [m, top_m].

        Reading ids waits for the device, once a target pass, right after verification did. The best of a position and
        what was verified join last, so that they stay longest.
        """
        return self.join([*top_ids.flip(-1).flatten().tolist(), *verified_ids])

    def _may_join(self, token_id: int) -> bool:
        return token_id < self._n_tokens and token_id not in self._static
