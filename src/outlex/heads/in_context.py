"""The in-context head: a static list of rows, and the rows of the request's own tokens (arXiv 2605.26444).

A small list misses names, numbers and rare words, and a text that uses one uses it again. Their rows are copied out of
the whole head as they join, a few a target pass, so a draft step stays one small matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outlex.heads.linear import LinearHead, trim_head
from outlex.heads.request_tokens import RequestTokens, check_looks
from outlex.proposals.base import DraftScores
from outlex.vocab.sub_vocab import SubVocab

__all__ = ["InContextHead"]


class InContextHead:
    """D_t = static rows ∪ prompt ∪ verified tokens ∪ the target's `top_m` at the positions it was shown.

    Args:
        full: the drafter's whole head. Its rows are read as tokens join, so it stays in memory.
        vocab: the static rows; the must-keep tokens alone will do.
        n_target: rows of the target's head.
        top_m: of the target's most probable tokens, as many join a position; 0 lets none join.
        capacity: tokens of the request that are kept, see `RequestTokens`.
        prompt_logits: see `DraftHead`; the target computes that many more rows of logits on a request's first pass.
        name: for reports.

    Raises:
        InputError: numbers out of range.
        MismatchError: the sub-vocabulary names rows that the head does not have.
        VocabError: it names ids that the target does not have.
    """

    follows_request = True

    def __init__(
        self,
        full: LinearHead,
        vocab: SubVocab,
        *,
        n_target: int,
        top_m: int = 8,
        capacity: int = 2048,
        prompt_logits: int = 256,
        name: str | None = None,
    ) -> None:
        check_looks(top_m=top_m, prompt_logits=prompt_logits, n_target=n_target, name="in-context")
        static = trim_head(full, vocab.with_target_width(n_target))
        device = full.weight.device
        self.name = name or f"in-context-{vocab.n_draft}"
        self.top_m = top_m
        self.prompt_logits = prompt_logits if top_m else 0
        self.tokens = RequestTokens(
            static.token_map.draft_to_target,
            n_tokens=min(full.n_rows, n_target),
            n_target=n_target,
            capacity=capacity,
        )
        self._full = full
        n_rows = vocab.n_draft + capacity
        self._weight = torch.empty(n_rows, full.weight.shape[1], dtype=full.weight.dtype, device=device)
        self._weight[: vocab.n_draft] = static.linear.weight
        self._bias = None if full.bias is None else full.bias.new_zeros(n_rows)
        if self._bias is not None and static.linear.bias is not None:
            self._bias[: vocab.n_draft] = static.linear.bias
        self._used = self._first_rows(vocab.n_draft)
        self._n_scored, self._bytes_scored = 0, 0

    @property
    def bytes_per_step(self) -> int:
        """Of the rows in use now. Copying a row when it joins is not counted: that happens once."""
        return self._used.n_bytes

    @property
    def mean_bytes_per_step(self) -> float:
        """Mean over every position scored so far, of all requests."""
        return self._bytes_scored / self._n_scored if self._n_scored else float(self.bytes_per_step)

    def begin(self, prompt_ids: list[int]) -> None:
        """A new request.

        Raises:
            InputError: the prompt has more different tokens than `capacity`.
        """
        self._copy(*self.tokens.begin(prompt_ids))

    def observe(self, verified_ids: list[int], target_logits: Tensor) -> None:
        self.observe_top(verified_ids, target_logits.topk(self.top_m, dim=-1).indices)

    def observe_top(self, verified_ids: list[int], top_ids: Tensor) -> None:
        self._copy(*self.tokens.join_observed(verified_ids, top_ids))

    def score(self, hidden: Tensor) -> DraftScores:
        self._n_scored += hidden.shape[0]
        self._bytes_scored += hidden.shape[0] * self.bytes_per_step
        return DraftScores(logits=self._used.logits(hidden), token_map=self.tokens.token_map, hidden=hidden)

    @torch.inference_mode()
    def _copy(self, columns: Tensor, token_ids: Tensor) -> None:
        if columns.numel():
            self._weight.index_copy_(0, columns, self._full.weight.index_select(0, token_ids))
            if self._bias is not None and self._full.bias is not None:
                self._bias.index_copy_(0, columns, self._full.bias.index_select(0, token_ids))
        self._used = self._first_rows(self.tokens.n_used)

    def _first_rows(self, n: int) -> LinearHead:
        bias = None if self._bias is None else self._bias[:n]
        return LinearHead(weight=self._weight[:n], bias=bias, scale=self._full.scale, softcap=self._full.softcap)
