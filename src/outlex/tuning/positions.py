"""Traced positions as a draft head scores them, with the target's logits beside the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from outlex.forecast.replay import Replay

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.proposals.base import DraftScores

__all__ = ["TOKENS_PER_PASS", "scored_positions"]

TOKENS_PER_PASS = 3  # heads that follow the request are shown so many tokens at once, as in a forecast
_ROWS_AT_ONCE = 64  # a law of 64 rows of 151,936 in float32 has 39 MB


def scored_positions(
    traces: TraceSet, head: DraftHead, *, target_head: LinearHead, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[Tensor, DraftScores, Tensor]]:
    """All positions, a few at a time, in order.

    Yields:
        Prompts int64 [n], scores of n positions, the target's logits there [n, n_target].
    """
    device, dtype = target_head.weight.device, target_head.weight.dtype
    replay = Replay(head, traces, tokens_per_pass=TOKENS_PER_PASS)
    for rows in traces.blocks(_ROWS_AT_ONCE):
        on_progress(rows.start, len(traces))
        target_logits = target_head.logits(traces.target_hidden[rows].to(device, dtype))
        hidden = traces.drafter_hidden[rows].to(device)
        prompts = traces.prompt_index[rows].long()
        for own, scores in replay.scores(rows, hidden, target_logits):
            yield prompts[own], scores, target_logits[own]
