"""Numbers out of JSON, and numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Value", "aligned", "count", "estimate_of", "number", "optional", "short"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number, with its 95 % interval where there is one.

    Attributes:
        value: the number.
        low, high: ends of the interval; None without one.
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return aligned(self.value)
        return f"{aligned(self.value)} [{aligned(self.low)}, {aligned(self.high)}]"


def number(value: Any) -> float:
    """A finite number.

    Raises:
        TypeError, ValueError: it is none; the reader of the file turns this into an error that names the file.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def optional(value: Any) -> float | None:
    """A finite number, or None for null."""
    return None if value is None else number(value)


def estimate_of(value: Any) -> Value | None:
    """What results write for an interval: [value, low, high], an object of these names, a number, or null."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value["value"], value["low"], value["high"]]
    if not isinstance(value, list):
        return Value(value=number(value))
    middle, low, high = value
    if middle is None:  # nothing was measured
        return None
    return Value(value=number(middle), low=optional(low), high=optional(high))


def short(value: float) -> str:
    """Four digits that matter, fewer zeros: 0.7311, 12.35, 4,096, 5.1e-05."""
    size = abs(value)
    if value == 0 or size < 1e-15:  # sums that should have been 0
        return "0"
    if value < 0:
        return f"−{short(size)}"
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size < 1e-3:
        return f"{value:.1e}"
    if size >= 1000:
        return f"{value:,.0f}"
    return aligned(value).rstrip("0").rstrip(".")


def aligned(value: float) -> str:
    """The same with all its digits, so that measurements below each other line up: 0.7310."""
    size = abs(value)
    if size < 1e-3 or size >= 1000:
        return short(value)
    if value < 0:
        return f"−{aligned(size)}"
    return f"{value:.{4 if size < 10 else 2 if size < 100 else 1}f}"


def count(value: float) -> str:
    """4096 -> 4,096."""
    return f"{round(value):,}"
