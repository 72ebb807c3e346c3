"""Every metric, defined once. p = target, q̃ = proposal, γ = `draft_len`.

β  per position    Σ_v min(p_v, q̃_v), the exact probability that a draft is accepted there
α  acceptance_rate  mean β, or accepted / tested drafts; drafts after the first rejection are not tested
τ  block_efficiency tokens emitted per target pass, recovered or bonus token included: in [1, γ + 1]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from outlex.errors import InputError

__all__ = ["Estimate", "block_efficiency", "clustered_ratio", "expected_speedup"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % confidence interval.

    Attributes:
        value: the point estimate.
        low, high: the interval's ends; equal to NaN where there are too few prompts to tell.
        n: positions (or other units) it was measured on.
    """

    value: float
    low: float
    high: float
    n: int


def block_efficiency(acceptance_rate: float, draft_len: int) -> float:
    """τ if every draft were accepted independently with probability α: (1 − α^(γ+1)) / (1 − α).

    Real chains differ: acceptance varies from position to position, and an easy one is followed by easy ones.
    """
    if not 0 <= acceptance_rate <= 1 or draft_len < 0:
        raise InputError(
            "block_efficiency cannot be computed",
            got=f"acceptance_rate={acceptance_rate}, draft_len={draft_len}",
            expected="an acceptance rate in [0, 1] and a draft length >= 0",
        )
    return float(sum(acceptance_rate**i for i in range(draft_len + 1)))


def expected_speedup(block_efficiency: float, draft_len: int, cost_ratio: float) -> float:
    """τ / (γ·c + 1) against one token a target pass.

    Args:
        block_efficiency: τ.
        draft_len: γ.
        cost_ratio: c = one draft step / one target pass. With c in measured seconds this forecasts the wall speed-up;
            with c in bytes of weights read it is the memory-bound speed-up (mbsu).
    """
    return block_efficiency / (draft_len * cost_ratio + 1)


def clustered_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95
) -> Estimate:
    """Σ numerators / Σ denominators with an interval that respects prompts as clusters.

    Positions of one prompt resemble each other, so they are not independent samples; prompts are. Linearised ratio
    estimator (Cochran, Sampling Techniques, §6) with Student's t on n_prompts − 1 degrees of freedom.

    Args:
        numerators: one sum a prompt, e.g. accepted drafts or the sum of β.
        denominators: one count a prompt, e.g. tested drafts.
        confidence: of the interval; where the best of several is looked for, 1 − 0.05/n keeps all of them at 0.95.

    Returns:
        The ratio; `n` is the sum of the denominators.
    """
    from scipy.stats import t

    top: npt.NDArray[np.float64] = np.asarray(numerators, dtype=np.float64)
    bottom: npt.NDArray[np.float64] = np.asarray(denominators, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1:
        raise InputError(
            "Numerators and denominators must pair up", got=f"{top.shape} and {bottom.shape}", expected="one a prompt"
        )
    used = bottom > 0
    top, bottom = top[used], bottom[used]
    n_clusters, total = len(top), float(bottom.sum())
    if n_clusters == 0:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    ratio = float(top.sum()) / total
    if n_clusters == 1:
        return Estimate(value=ratio, low=float("nan"), high=float("nan"), n=round(total))
    errors = top - ratio * bottom
    variance = n_clusters / (n_clusters - 1) * float((errors**2).sum()) / total**2
    half = float(t.ppf((1 + confidence) / 2, n_clusters - 1)) * variance**0.5
    return Estimate(value=ratio, low=ratio - half, high=ratio + half, n=round(total))
