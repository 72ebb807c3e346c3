"""Intervals that only a benchmark needs: for a median, and for the ratio of two ratios."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np

from outlex.metrics import Estimate

__all__ = ["median_interval", "ratio_of_ratios"]


def median_interval(values: Sequence[float]) -> Estimate:
    """The median with a 95 % interval between two order statistics.

    The interval [x_(k), x_(n+1−k)] misses the true median with probability 2·P(Bin(n, ½) < k), whatever the
    distribution; k is the largest with at most 5 %. Timings have outliers, which move neither end.

    Args:
        values: independent, one a prompt.

    Returns:
        `n` is the number of values; the ends are NaN below six values, where no such interval exists.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    k, below = 0, 0
    while 2 * (below + comb(n, k)) <= 0.05 * 2**n:
        below += comb(n, k)
        k += 1
    low, high = (ordered[k - 1], ordered[n - k]) if k else (float("nan"), float("nan"))
    return Estimate(value=float(np.median(ordered)), low=low, high=high, n=n)


def ratio_of_ratios(
    tops: tuple[Sequence[float], Sequence[float]], bottoms: tuple[Sequence[float], Sequence[float]]
) -> Estimate:
    """(Σa / Σm) / (Σb / Σn) with a 95 % interval, when a, m, b, n come from the same prompts.

    Linearised like `outlex.metrics.clustered_ratio`: what a prompt does to both ratios cancels.

    Args:
        tops: a and m, one entry a prompt, such as Σβ and the tested drafts of a trimmed drafter.
        bottoms: b and n of the same prompts, such as those of the untrimmed drafter.

    Returns:
        `n` is the number of prompts; NaN where a sum is zero, NaN ends below two prompts.
    """
    from scipy.stats import t

    (a, m), (b, n) = ([np.asarray(x, dtype=np.float64) for x in pair] for pair in (tops, bottoms))
    n_prompts = len(a)
    if not (m.sum() > 0 and b.sum() > 0):
        return Estimate(value=float("nan"), low=float("nan"), high=float("nan"), n=n_prompts)
    first, second = a.sum() / m.sum(), b.sum() / n.sum()
    ratio = float(first / second)
    if n_prompts < 2:
        return Estimate(value=ratio, low=float("nan"), high=float("nan"), n=n_prompts)
    influence = (a - first * m) / (m.sum() * second) - ratio * (b - second * n) / (n.sum() * second)
    variance = n_prompts / (n_prompts - 1) * float((influence**2).sum())
    half = float(t.ppf(0.975, n_prompts - 1)) * variance**0.5
    return Estimate(value=ratio, low=ratio - half, high=ratio + half, n=n_prompts)
