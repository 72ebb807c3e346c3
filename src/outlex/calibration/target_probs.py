"""How probable each token is to the target, on average over traced positions: a smooth ranking of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.sampling import SamplingParams, probabilities

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.linear import LinearHead

__all__ = ["TargetProbs", "target_probs"]

_ROWS_AT_ONCE = 64  # 64 rows of 151,936 in float32 are 39 MB


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetProbs:
    """Moments of the target's laws.

    Attributes:
        mean: float64 [n_target], E p(v) over the positions; sums to 1.
        variance: float64 [n_target], E p(v)² − (E p(v))².
        n_positions: how many there were.
        temperature: of the laws.
    """

    mean: Tensor = field(repr=False)
    variance: Tensor = field(repr=False)
    n_positions: int
    temperature: float


@torch.inference_mode()
def target_probs(traces: TraceSet, target_head: LinearHead, *, temperature: float = 1.0) -> TargetProbs:
    """Mean and variance of every token's probability, over all positions of the traces alike.

    A token that was never sampled still has a mean probability, which counts alone would put at 0. Memory does not
    grow with the number of positions. For one domain pass `traces.domain(name)`.

    Args:
        traces: of the pair.
        target_head: of the traced target.
        temperature: of the laws; it need not be the one that the text was sampled at.

    Raises:
        MismatchError: the head is not the traced target's.
        NumericalError: the logits hold NaN or infinity.
    """
    traces.header.target.check(target_head, role="target")
    params = SamplingParams(temperature=temperature)
    device = target_head.weight.device
    total = torch.zeros(target_head.n_rows, dtype=torch.float64, device=device)
    squares = torch.zeros_like(total)
    for rows in traces.blocks(_ROWS_AT_ONCE):
        hidden = traces.target_hidden[rows].to(device, target_head.weight.dtype)
        probs = probabilities(target_head.logits(hidden), params)
        if bool(probs[:, 0].isnan().any()):
            raise NumericalError(
                "The target's logits hold NaN or infinity",
                expected="finite logits",
                next_step="trace again in float32 (--dtype float32)",
            )
        total += probs.sum(0, dtype=torch.float64)
        squares += probs.square().sum(0, dtype=torch.float64)
    mean = total / len(traces)
    return TargetProbs(
        mean=mean.cpu(),
        variance=(squares / len(traces) - mean.square()).clamp_min(0).cpu(),
        n_positions=len(traces),
        temperature=temperature,
    )
