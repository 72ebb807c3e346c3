"""What `tune` found, as values: one trial a proposal, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from outlex.metrics import Estimate

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.drafters.fitted import FittedHead
    from outlex.drafters.trimmed import TrimmedDrafter
    from outlex.proposals.restoring import Restoring
    from outlex.tuning.gain_table import Weights

__all__ = ["Comparison", "Trial", "Tuned", "estimate_json"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One proposal, alone or mixed with TLI.

    Attributes:
        name: with its prior and numbers; "tli" for TLI itself.
        mode: how λ was chosen; "alone" without TLI; "" for TLI.
        proposal: None for TLI.
        weights: λ, a row a temperature; None where nothing is mixed.
        fit_s: seconds to fit it, the mixture left out.
        n_bytes: of its tensors.
        expected: temperature -> gain over TLI on the calibration prompts; cross-validated for mixtures.
        acceptance: temperature -> mean β on the held-out prompts.
        gain: temperature -> difference to TLI there, paired, prompts as clusters.
        betas: temperature -> β at each held-out position.
    """

    name: str
    mode: str
    proposal: Restoring | None = field(repr=False)
    weights: Weights | None
    fit_s: float
    n_bytes: int
    expected: dict[float, Estimate]
    acceptance: dict[float, Estimate] = field(default_factory=dict)
    gain: dict[float, Estimate] = field(default_factory=dict)
    betas: dict[float, npt.NDArray[np.float64]] = field(default_factory=dict, repr=False)

    @property
    def label(self) -> str:
        return f"{self.name} + tli" if self.weights is not None else self.name

    @property
    def weight_rows(self) -> list[list[float]] | None:
        """`weights` as a JSON value."""
        return None if self.weights is None else [list(row) for row in self.weights]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "mode": self.mode,
            "weights": self.weight_rows,
            "fit_s": self.fit_s,
            "n_bytes": self.n_bytes,
            **{
                part: {f"{t:g}": estimate_json(value) for t, value in getattr(self, part).items()}
                for part in ("expected", "acceptance", "gain")
            },
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The trials and the choice among them.

    Attributes:
        trials: all that was compared, TLI first.
        chosen: one of them.
        reason: why, one sentence.
        held_out: temperature -> what they were compared on.
    """

    trials: tuple[Trial, ...] = field(repr=False)
    chosen: Trial
    reason: str
    held_out: Mapping[float, TraceSet] = field(repr=False)

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(sorted(self.held_out))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuned:
    """The artifact with its proposal, and the comparison behind it.

    Attributes:
        artifact: to be saved.
        comparison: trials and choice.
        n_prompts: "fit", "calibrate" and "held_out" -> how many.
    """

    artifact: TrimmedDrafter | FittedHead
    comparison: Comparison = field(repr=False)
    n_prompts: dict[str, int]


def estimate_json(estimate: Estimate) -> list[float | None]:
    """[value, low, high], null for NaN: an artifact's config holds numbers only."""
    return [x if x == x else None for x in (estimate.value, estimate.low, estimate.high)]
