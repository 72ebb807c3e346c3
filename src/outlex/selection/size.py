"""How many rows to keep: the size with the best trade between coverage and cost (arXiv 2603.05210).

    U(k) = α·C(k) + (1 − α)·R(k)      maximised over k_min ≤ k ≤ k_max with C(k) ≥ c_min

C rises with k and R falls. Where the cost is linear and the rows come in the order of their coverage, C is concave and
R is linear, and the optimum can be written down: a row pays as long as its own share of the tokens is above

    (1 − α)/α · cost of one row / cost of the untrimmed step

The paper searches with Optuna's TPE; `outlex.selection.tpe` does the same. Both agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from outlex.errors import InputError
from outlex.selection.cost import Cost, LinearCost, reduction
from outlex.selection.coverage import CoverageCurve

__all__ = [
    "SizeChoice",
    "SizeGoal",
    "best_size",
    "choice_at",
    "closed_form_size",
    "pays_above",
    "size_range",
    "utility",
]

Bound = Literal["utility", "min_coverage", "min_size", "max_size"]


@dataclass(frozen=True, kw_only=True)
class SizeGoal:
    """What the size is chosen for.

    Attributes:
        alpha: weight of coverage against cost, in [0, 1].
        min_coverage: c_min, in [0, 1].
        min_size: k_min.
        max_size: k_max; None sets no limit.

    Raises:
        InputError: out of range.
    """

    alpha: float = 0.5
    min_coverage: float = 0.0
    min_size: int = 1
    max_size: int | None = None

    def __post_init__(self) -> None:
        # comparisons are False for NaN
        if not 0 <= self.alpha <= 1 or not 0 <= self.min_coverage <= 1:
            raise InputError(
                "alpha and min_coverage are shares",
                got=f"alpha={self.alpha}, min_coverage={self.min_coverage}",
                expected="numbers from 0 to 1",
                next_step="take alpha 0.5 for equal weights, min_coverage 0.95 for 95 % of the tokens",
            )
        if self.min_size < 1 or (self.max_size is not None and self.max_size < self.min_size):
            raise InputError(
                "No size lies between these limits",
                got=f"min_size={self.min_size}, max_size={self.max_size}",
                expected="1 or more, and the smaller limit first",
                next_step="correct the limits, or leave one out",
            )


@dataclass(frozen=True, kw_only=True)
class SizeChoice:
    """A size and what it stands for.

    Attributes:
        size: k.
        coverage: C(k).
        reduction: R(k).
        utility: U(k).
        bound: what fixed it: its utility, or the limit that kept it from the size of best utility.
    """

    size: int
    coverage: float
    reduction: float
    utility: float
    bound: Bound


def size_range(curve: CoverageCurve, goal: SizeGoal) -> tuple[int, int]:
    """The smallest and the largest size that the goal allows; C never falls, so c_min is a smallest size, too.

    Raises:
        InputError: there is none; the message names the best coverage that can be reached.
    """
    low = max(curve.smallest, goal.min_size)
    high = curve.largest if goal.max_size is None else min(curve.largest, goal.max_size)
    if low > high:
        raise InputError(
            "No size lies between these limits",
            got=f"sizes from {goal.min_size} to {goal.max_size or curve.largest}",
            expected=f"sizes from {curve.smallest} (must-keep tokens) to {curve.largest} (every token of the head)",
            next_step=f"raise the largest size to {curve.smallest} or more, or lower the smallest",
        )
    best = curve.at(high)
    # sums of floats: a coverage of 1 may come out a rounding below it
    enough = goal.min_coverage - 1e-12
    if best < enough:
        raise InputError(
            "This coverage is out of reach",
            got=f"min_coverage={goal.min_coverage}",
            expected=f"at most {math.floor(best * 1e6 + 1e-6) / 1e6:.6f}, the coverage of {high} rows",
            next_step="lower --min-coverage, or raise --max-size" if goal.max_size else "lower --min-coverage",
        )
    floor = curve.smallest + int(torch.searchsorted(curve.values, enough))
    return max(low, floor), high


def utility(size: int, curve: CoverageCurve, cost: Cost, goal: SizeGoal) -> float:
    """U(size)."""
    saved = float(reduction(cost, torch.tensor([size])))
    return goal.alpha * curve.at(size) + (1 - goal.alpha) * saved


def best_size(curve: CoverageCurve, cost: Cost, goal: SizeGoal) -> SizeChoice:
    """argmax U(k), for any cost: every allowed size is tried. Of equal ones the smallest.

    Raises:
        InputError: no size is allowed; see `size_range`.
    """
    low, high = size_range(curve, goal)
    sizes = torch.arange(low, high + 1)
    coverage = curve.values[low - curve.smallest : high + 1 - curve.smallest]
    value = goal.alpha * coverage + (1 - goal.alpha) * reduction(cost, sizes)
    return choice_at(low + int(value.argmax()), curve, cost, goal)


def pays_above(cost: LinearCost, *, alpha: float) -> float:
    """The share of the tokens above which a row pays: (1 − α)/α · cost of a row / cost of the untrimmed step."""
    whole = cost.fixed + cost.per_row * cost.n_rows
    return math.inf if alpha == 0 else (1 - alpha) / alpha * cost.per_row / whole


def closed_form_size(curve: CoverageCurve, cost: LinearCost, goal: SizeGoal) -> SizeChoice:
    """argmax U(k) where C is concave and the cost linear: the rows that pay, then the limits.

    Raises:
        InputError: C is not concave, or no size is allowed.
    """
    if not curve.is_concave:
        raise InputError(
            "The closed form needs rows in the order of their coverage",
            got="a row that covers more than the one before it",
            expected="a ranking by the same scores that the coverage is computed from",
            next_step="use best_size, which tries every size",
        )
    low, high = size_range(curve, goal)
    n_paying = int((curve.gains > pays_above(cost, alpha=goal.alpha)).sum())
    return choice_at(min(max(curve.smallest + n_paying, low), high), curve, cost, goal)


def choice_at(size: int, curve: CoverageCurve, cost: Cost, goal: SizeGoal) -> SizeChoice:
    """What an allowed size is worth, and which limit decided it. A loss of 1e-4 of utility is none."""
    sizes = torch.arange(curve.smallest, curve.largest + 1)
    values = goal.alpha * curve.values + (1 - goal.alpha) * reduction(cost, sizes)
    own, ideal = utility(size, curve, cost, goal), curve.smallest + int(values.argmax())
    bound: Bound = "utility"
    if float(values.max()) > own + 1e-4:
        low, _ = size_range(curve, goal)
        is_floor = low > max(curve.smallest, goal.min_size)
        bound = "max_size" if size < ideal else "min_coverage" if is_floor else "min_size"
    return SizeChoice(
        size=size,
        coverage=curve.at(size),
        reduction=float(reduction(cost, torch.tensor([size]))),
        utility=own,
        bound=bound,
    )
