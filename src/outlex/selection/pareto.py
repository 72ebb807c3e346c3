"""The choices that nothing beats: more coverage is only to be had at more cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from outlex.errors import InputError
from outlex.selection.cost import Cost, reduction
from outlex.selection.coverage import CoverageCurve

__all__ = ["ParetoPoint", "pareto_front", "thinned"]


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """A size with its coverage C(k), its cost in the unit of the cost, and its reduction R(k)."""

    size: int
    coverage: float
    cost: float
    reduction: float


def pareto_front(sizes: Sequence[int], curve: CoverageCurve, cost: Cost) -> tuple[ParetoPoint, ...]:
    """The sizes among ``sizes`` that no other one beats in coverage without costing more; smallest first.

    With a measured cost several sizes can cost the same, and only the largest of them is worth having; where rows
    cover nothing more, only the smallest.

    Raises:
        InputError: a size outside the curve.
    """
    unique = torch.tensor(sorted(set(sizes)))
    if not unique.numel() or int(unique[0]) < curve.smallest or int(unique[-1]) > curve.largest:
        raise InputError(
            "These sizes are not all possible",
            got=f"{len(sizes)} sizes" + (f" from {int(unique[0])} to {int(unique[-1])}" if unique.numel() else ""),
            expected=f"at least one, from {curve.smallest} to {curve.largest}",
            next_step="keep the sizes between the must-keep tokens and the head",
        )
    coverage, costs, saved = curve.values[unique - curve.smallest], cost.of(unique), reduction(cost, unique)
    # cheapest first, of equal cost the best covering; a point stays if it covers more than all before it
    order = sorted(range(len(unique)), key=lambda i: (float(costs[i]), -float(coverage[i]), int(unique[i])))
    front, best = [], -1.0
    for i in order:
        if float(coverage[i]) > best:
            best = float(coverage[i])
            point = ParetoPoint(size=int(unique[i]), coverage=best, cost=float(costs[i]), reduction=float(saved[i]))
            front.append(point)
    return tuple(front)


def thinned(low: int, high: int, *, n: int) -> list[int]:
    """About ``n`` sizes from ``low`` to ``high``, both included, in equal ratios: for tables and measurements."""
    steps = torch.linspace(0, 1, max(n, 2), dtype=torch.float64)
    sizes = low * (high / low) ** steps
    return sorted({low, high, *sizes.round().long().tolist()})
