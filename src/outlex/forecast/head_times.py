"""What a draft head costs next to the whole one: both timed in turns, in one run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.decode.stopwatch import now
from outlex.heads.linear import FullHead
from outlex.proposals.tli import Tli
from outlex.randomness import GeneratorRandomness, seeded_generator
from outlex.sampling import SamplingParams

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.drafters.artifacts import DraftHeadArtifact
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead

__all__ = ["relative_times", "time_heads"]

_PARAMS = SamplingParams(temperature=1.0)


def relative_times(
    full: LinearHead, artifacts: Sequence[DraftHeadArtifact], traces: TraceSet, *, n_target: int, repeats: int = 15
) -> list[float]:
    """Median time of a head step, as a share of the whole head's; a step is scores, proposal and draw at T = 1.

    Heads that follow the request are in the state that the first traced prompt leaves them in.
    """
    heads: list[DraftHead] = [FullHead(full, n_target=n_target)]
    heads += [artifact.head_from(full, n_target=n_target) for artifact in artifacts]
    prompt = traces.prompt_ids[traces.prompt_rows(0)].tolist()
    for head in heads:
        head.begin(prompt)
    hidden = traces.drafter_hidden[:64].to(full.weight.device, full.weight.dtype)
    whole, *others = (median(seconds) for seconds in time_heads(heads, hidden, repeats=repeats))
    return [other / whole for other in others]


@torch.inference_mode()
def time_heads(heads: Sequence[DraftHead], hidden: Tensor, *, repeats: int) -> list[list[float]]:
    """Seconds of each head step, heads taking turns.

    Args:
        heads: to compare.
        hidden: [n, d]; every turn takes the next state.
        repeats: turns, after two that warm up.

    Returns:
        `repeats` times a head.
    """
    randomness = GeneratorRandomness(seeded_generator(0, device=hidden.device))
    seconds: list[list[float]] = [[] for _ in heads]
    for turn in range(repeats + 2):
        row = hidden[turn % len(hidden)].unsqueeze(0)
        for head, own in zip(heads, seconds, strict=True):
            start = now(hidden.device)
            Tli().law(head.score(row), _PARAMS).sample(randomness)
            own.append(now(hidden.device) - start)
    return [own[2:] for own in seconds]
