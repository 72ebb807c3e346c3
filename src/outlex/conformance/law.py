"""The reference law at many positions, and how far an engine that rounds may be from it.

What is tested is not `the engine draws from p`, which no engine with other rounding does, but the wider

    H0(ε, η)   at every position, for every set of tokens A that is looked at, the engine's odds of A are at most e^ε
               times those of p; a token whose score is within 2η of the edge of a filter may be in or out.

So the largest probability of A under H0 is  e^ε a / (e^ε a + b), where a is the weight of A with every doubtful token
of A inside the filter, and b the weight of the rest with every doubtful token of the rest outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.sampling import SamplingParams, probabilities

__all__ = ["Laws", "Tolerance", "laws_of"]

# (ε, η) by dtype: docs/conformance.md says how they were measured
_BY_DTYPE = {
    "float64": (0.002, 1e-3),
    "float32": (0.005, 1e-3),
    "float16": (0.05, 0.20),
    "bfloat16": (0.30, 1.25),
}


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What rounding may do to the law.

    Attributes:
        odds: ε, of the log odds of a set of tokens.
        edge: η, of a logit where a filter decides about a token.
    """

    odds: float
    edge: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value >= 0 for value in (self.odds, self.edge)):
            raise InputError(
                "The tolerance cannot be used",
                got=f"odds {self.odds}, edge {self.edge}",
                expected="two finite numbers >= 0",
                next_step="leave --tolerance out: it follows from the engine's dtype",
            )

    @classmethod
    def of_dtype(cls, dtype: str, *, odds: float | None = None) -> Tolerance:
        """What is usual for an engine that computes in `dtype`; another ε if `odds` says so.

        Raises:
            InputError: an unknown dtype.
        """
        if dtype not in _BY_DTYPE:
            raise InputError(
                "It is not known how this type rounds",
                got=dtype,
                expected=", ".join(_BY_DTYPE),
                next_step="name the type in which the engine computes the target (--engine-dtype)",
            )
        usual, edge = _BY_DTYPE[dtype]
        return cls(odds=usual if odds is None else odds, edge=edge)


@dataclass(frozen=True, kw_only=True, eq=False)
class Laws:
    """The law at n positions.

    Attributes:
        probs: p, [n, n_target], float32 or float64.
        weights: the same over all tokens that may pass the filters, [n, n_target].
        sure: which tokens pass whatever rounding does, bool [n, n_target]; None without filters: all do.
        odds: ε.
    """

    probs: Tensor
    weights: Tensor
    sure: Tensor | None
    odds: float

    def mass(self, members: Tensor) -> Tensor:
        """p(A): bool [n, n_target] (or one row for all) -> float64 [n]."""
        return (self.probs * members).sum(-1, dtype=torch.float64)

    def most(self, members: Tensor) -> Tensor:
        """The largest probability of A under the null hypothesis: bool [n, n_target] -> float64 [n]."""
        rest = self.weights * ~members
        if self.sure is not None:
            rest = rest * self.sure
        inside = (self.weights * members).sum(-1, dtype=torch.float64) * math.exp(self.odds)
        total = inside + rest.sum(-1, dtype=torch.float64)
        return torch.where(total > 0, inside / torch.where(total > 0, total, 1.0), 1.0)


def laws_of(logits: Tensor, params: SamplingParams, tolerance: Tolerance) -> Laws:
    """The law at each position.

    Args:
        logits: [n, n_target], repetition penalty already applied.
        params: temperature (above 0) and filters.
        tolerance: ε and η.
    """
    probs = probabilities(logits, params)
    unfiltered = replace(params, top_k=0, top_p=1.0, min_p=0.0)
    if params == unfiltered:
        return Laws(probs=probs, weights=probs, sure=None, odds=tolerance.odds)
    raw = probabilities(logits, unfiltered)
    # an error of η in each of two logits moves them by 2η against each other
    room = 2 * tolerance.edge / params.temperature
    possible = raw >= _floor(logits, _moved(params, room), raw) * math.exp(-room)
    sure = raw >= _floor(logits, _moved(params, -room), raw) * math.exp(room)
    weights = raw * possible
    return Laws(probs=probs, weights=weights / weights.sum(-1, keepdim=True), sure=sure, odds=tolerance.odds)


def _floor(logits: Tensor, params: SamplingParams, raw: Tensor) -> Tensor:
    """The smallest unfiltered probability that passes the filters, [n, 1]: each of them is a threshold."""
    return raw.masked_fill(probabilities(logits, params) <= 0, torch.inf).amin(-1, keepdim=True)


def _moved(params: SamplingParams, room: float) -> SamplingParams:
    """Filters that let through more (room > 0) or less, by what an error of `room` in a log probability can do."""
    left_out = (1 - params.top_p) * math.exp(-room)
    return replace(params, top_p=max(1 - left_out, 1e-6), min_p=min(params.min_p * math.exp(-room), 1 - 1e-6))
