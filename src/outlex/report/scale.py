"""From values to pixels, and where the axis says what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from outlex.report.values import short

__all__ = ["Scale", "covering", "label_of"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One axis.

    Attributes:
        low, high: values at its ends; above 0 on a logarithmic axis.
        start, end: pixels at its ends; `end` may be less than `start`, as for y.
        log: logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixels of a value; beyond the ends it goes on."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """About `n` round values between the ends."""
        return _log_ticks(self.low, self.high, n) if self.log else _linear_ticks(self.low, self.high, n)


def covering(
    values: list[float], *, start: float, end: float, log: bool = False, zero: bool = False, room: float = 0.04
) -> Scale:
    """An axis with room for all values.

    Args:
        values: at least one; above 0 for a logarithmic axis.
        start, end: pixels.
        log: logarithmic.
        zero: show 0 as well, without room beyond it.
        room: share of the length that is left free at each end.
    """
    low, high = min(values), max(values)
    if log:
        if low <= 0:
            raise ValueError(f"{low} has no place on a logarithmic axis")
        share = (high / low) ** room if high > low else 2.0
        return Scale(low=low / share, high=high * share, start=start, end=end, log=True)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:  # one value, or only zeros: some length beside it
        high, room = low + (abs(low) or 1.0), max(room, 0.04)
    length = high - low
    return Scale(
        low=low if zero and low == 0 else low - room * length,
        high=high if zero and high == 0 else high + room * length,
        start=start,
        end=end,
    )


def label_of(value: float, ticks: Sequence[float]) -> str:
    """A tick's label, with as many digits as its neighbours need."""
    if abs(value) >= 1e6:
        return f"{value:.3g}".replace("e+0", "e")
    if abs(value) >= 1000 or value == 0 or len(ticks) < 2:
        return short(value)
    step = min(abs(ticks[k + 1] - ticks[k]) for k in range(len(ticks) - 1))
    digits = next((d for d in range(5) if math.isclose(round(step, d), step, rel_tol=1e-6)), None)
    return short(value) if digits is None else f"{value:.{digits}f}".replace("-", "−")


def _linear_ticks(low: float, high: float, n: int) -> list[float]:
    raw = (high - low) / max(1, n)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, n: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        inside = [f * 10.0**k for k in decades for f in factors if low * 0.999 <= f * 10.0**k <= high * 1.001]
        if len(inside) >= min(n, 3):
            every = math.ceil(len(inside) / (2 * n))
            return inside[::every]
    return inside or [low, high]
