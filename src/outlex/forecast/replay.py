"""Draft heads on traced text: those that follow the request are shown it as decoding would have shown it.

    prompt … c | x0 x1 x2 | x3 x4 x5 | …        begin(prompt)
                 scored     │                   before the target was asked anything
                            observe(x0 x1 x2, and what the target expects in the prompt and at x0 x1 x2)
                              scored
                                        observe(x3 x4 x5 …)

Within a block the head knows nothing newer than the block before. How long blocks are depends on what is accepted; here
they all have the length that is expected on average, which the caller gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from outlex.calibration.trace_records import PROMPT_TOP
from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead, FollowingHead
    from outlex.proposals.base import DraftScores

__all__ = ["Replay"]


class Replay:
    """One head on one set of traces, whose rows have to be asked for in order.

    Args:
        head: of the traced drafter.
        traces: of the pair.
        tokens_per_pass: length of a block.

    Raises:
        InputError: the head looks at more of the target's most probable tokens than the traces hold.
    """

    def __init__(self, head: DraftHead, traces: TraceSet, *, tokens_per_pass: int) -> None:
        self._head = head
        self._traces = traces
        self._block_len = tokens_per_pass
        self._following = cast("FollowingHead", head) if head.follows_request else None
        self._verified: list[int] = []
        self._tops: list[Tensor] = []
        self._n_bytes, self._n_tokens = 0, 0
        if self._following is not None and self._following.top_m > PROMPT_TOP:
            raise InputError(
                f"{head.name} looks at more of the target's most probable tokens than traces hold",
                got=f"top_m={self._following.top_m}",
                expected=f"at most {PROMPT_TOP}",
                next_step="make the head with a smaller top_m",
            )

    @property
    def mean_bytes(self) -> float:
        """Bytes of weights that the head reads to score one position, mean over all of them."""
        return self._n_bytes / len(self._traces)

    @property
    def mean_tokens(self) -> float:
        """How many tokens it scores at a position, mean over all of them."""
        return self._n_tokens / len(self._traces)

    def scores(self, rows: slice, hidden: Tensor, target_logits: Tensor) -> Iterator[tuple[slice, DraftScores]]:
        """Score the next rows of the traces.

        Args:
            rows: of the traces.
            hidden: the drafter's hidden states there [n, d].
            target_logits: the target's there [n, n_target].

        Yields:
            Parts of 0 … n − 1, in order, and their scores.
        """
        start = rows.start
        while start < rows.stop:
            end = rows.stop if self._following is None else self._turn(self._following, start, rows.stop)
            own = slice(start - rows.start, end - rows.start)
            scores = self._head.score(hidden[own])
            self._n_bytes += (end - start) * self._head.bytes_per_step
            self._n_tokens += int((scores.logits > -torch.inf).sum())
            if self._following is not None:
                self._verified += self._traces.token_ids[start:end].tolist()
                self._tops.append(target_logits[own].topk(self._following.top_m, dim=-1).indices.cpu())
            yield own, scores
            start = end

    def _turn(self, head: FollowingHead, start: int, stop: int) -> int:
        """Tell the head what it knows at row `start`; returns the row up to which it knows no more."""
        index, position = int(self._traces.prompt_index[start]), int(self._traces.position[start])
        if position == 0:
            rows = self._traces.prompt_rows(index)
            head.begin(self._traces.prompt_ids[rows].tolist())
            # the prompt's last row is about the response's first token, and comes with the first block
            n_shown = min(head.prompt_logits, rows.stop - rows.start - 1)
            shown = slice(rows.stop - 1 - n_shown, rows.stop - 1)
            self._verified, self._tops = [], [self._traces.prompt_top[shown, : head.top_m].to(torch.int64)]
        elif position % self._block_len == 0:
            head.observe_top(self._verified, torch.cat(self._tops))
            self._verified, self._tops = [], []
        left = self._traces.prompts[index].n_positions - position
        return min(stop, start + left, start + self._block_len - position % self._block_len)
