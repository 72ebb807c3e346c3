"""Any proposal r mixed with TLI: q̃ = (1 − λ) q' + λ r, λ calibrated on traces.

λ = 0 is TLI, and Σ_v min(p_v, q̃_v) is concave in λ, so on the calibration traces a calibrated λ is never worse than
either end. It may depend on the temperature and on how much mass the drafter seems to have on tokens it lacks: where
that is small, moving mass costs more than it brings. Ours; RDK (arXiv 2506.03206) proposes r alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError, NumericalError
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.cold_groups import ColdTokens
from outlex.proposals.mixture_gains import Contest, best_weight
from outlex.proposals.restoring import Restoring
from outlex.proposals.tli import Tli
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, probabilities

__all__ = ["GRID", "Mixed", "MixedLaw"]

GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixed(Restoring):
    """q̃ = (1 − λ) q' + λ r.

    Attributes:
        inner: the proposal that gives r.
        weights: λ in [0, 1], a row a temperature, a column a range of the estimated cold mass. ((λ,),) is one number.
        temperatures: ascending; the nearest one's row is used. Greedy drafting is temperature 0.
        edges: ascending, where one range of the cold mass ends and the next begins; one fewer than columns.
        estimator: what estimates the cold mass; needed where there are edges.

    Raises:
        InputError: numbers that are no weights, or tables that do not fit.
    """

    kind: ClassVar[str] = "mixed"

    inner: Restoring
    weights: tuple[tuple[float, ...], ...]
    temperatures: tuple[float, ...] = (1.0,)
    edges: tuple[float, ...] = ()
    estimator: ColdTokens | None = None

    _table: Tensor = field(init=False, repr=False)  # float64 [temperatures, ranges]
    _edges: Tensor = field(init=False, repr=False)  # float64 [ranges − 1]

    def __post_init__(self) -> None:
        shape_fits = len(self.weights) == len(self.temperatures) > 0 and all(
            len(row) == len(self.edges) + 1 for row in self.weights
        )
        in_range = all(0 <= weight <= 1 for row in self.weights for weight in row)
        ascending = all(tuple(sorted(set(values))) == values for values in (self.temperatures, self.edges))
        if not (shape_fits and in_range and ascending) or (self.edges and self.estimator is None):
            raise InputError(
                "These weights cannot mix a proposal with TLI",
                got=f"weights {self.weights}, temperatures {self.temperatures}, edges {self.edges}",
                expected="λ from 0 to 1, a row a temperature, a column a range, both in ascending order, and an "
                "estimator where there are ranges",
                next_step="Mixed.calibrate finds them on traces",
            )
        for name, values in (("_table", self.weights), ("_edges", self.edges)):
            object.__setattr__(self, name, torch.tensor(values, dtype=torch.float64, device=self.device))

    @property
    def name(self) -> str:
        return f"{self.inner.name}+tli"

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        at = min(range(len(self.temperatures)), key=lambda i: abs(self.temperatures[i] - params.temperature))
        row = self.weights[at]
        if not any(row):
            return hot  # λ = 0 everywhere: TLI itself, and nothing to pay for
        if self.estimator is None:
            share = hot.probs.new_full((hot.probs.shape[0],), row[0])
        else:
            share = self._table[at][self.ranges(scores, params)].to(hot.probs.dtype)
        return MixedLaw(hot, self.inner.restore(hot, scores, params), share)

    @classmethod
    def calibrate(
        cls,
        inner: Restoring,
        batches: Iterable[tuple[DraftScores, Tensor]],
        *,
        clusters: Tensor | None = None,
        temperatures: tuple[float, ...] = (1.0,),
        edges: tuple[float, ...] = (),
        estimator: ColdTokens | None = None,
        grid: tuple[float, ...] = GRID,
        margin: float = 1.0,
    ) -> Mixed:
        """Choose λ for each temperature and range: the best of a grid, if its gain over TLI is more than noise.

        Args:
            inner: r.
            batches: the draft head's scores and the target's logits [n, n_target] of the same positions; read once.
            clusters: int64, the prompt of each position of all batches; None takes positions for independent.
            temperatures, edges, estimator: what λ may depend on.
            grid: values of λ to try, 0 among them.
            margin: see `outlex.proposals.mixture_gains.best_weight`.

        Raises:
            InputError: no positions, 0 is not in the grid, or λ cannot depend on what is given.
            NumericalError: the logits or the hidden states hold NaN or infinity.
        """
        if 0.0 not in grid or not all(0 <= value <= 1 for value in grid):
            raise InputError(
                "λ cannot be chosen from this grid",
                got=grid,
                expected="values from 0 to 1, 0 among them",
                next_step="without 0 the mixture could be worse than TLI",
            )
        grid = tuple(sorted(set(grid)))
        # what λ may depend on is checked before the work, not after it
        nothing = ((0.0,) * (len(edges) + 1),) * len(temperatures)
        tli = cls(inner=inner, weights=nothing, temperatures=temperatures, edges=edges, estimator=estimator)
        gains: list[list[Tensor]] = [[] for _ in temperatures]
        ranges: list[list[Tensor]] = [[] for _ in temperatures]
        for scores, target_logits in batches:
            for at, temperature in enumerate(temperatures):
                params = SamplingParams(temperature=temperature)
                hot = Tli().law(scores, params)
                contest = Contest.of(hot, probabilities(target_logits, params))
                gains[at].append(contest.gains(inner.restore(hot, scores, params), grid))
                ranges[at].append(tli.ranges(scores, params))
        if not gains[0]:
            raise InputError(
                "There is no position to calibrate on",
                expected="at least one batch",
                next_step="trace the pair with `outlex trace`",
            )
        weights = []
        for of_one, found in zip(map(torch.cat, gains), map(torch.cat, ranges), strict=True):
            if bool(of_one.isnan().any()):
                raise NumericalError(
                    "λ cannot be chosen: the logits or the hidden states hold NaN or infinity",
                    expected="finite numbers",
                    next_step="trace again in float32 (--dtype float32)",
                )
            own = torch.arange(len(of_one), device=of_one.device) if clusters is None else clusters
            cells = [found == i for i in range(len(edges) + 1)]
            weights.append(tuple(best_weight(of_one[cell], own[cell], grid, margin=margin) for cell in cells))
        return replace(tli, weights=tuple(weights))

    def ranges(self, scores: DraftScores, params: SamplingParams) -> Tensor:
        """Which range of the cold mass each position is in: int64 [n]."""
        if self.estimator is None:
            return torch.zeros(scores.logits.shape[0], dtype=torch.int64, device=scores.logits.device)
        mass = self.estimator.cold_mass(scores, params).double()
        return torch.bucketize(mass, self._edges, right=True)


class MixedLaw:
    """(1 − λ) q' + λ r at n positions, λ [n]."""

    def __init__(self, hot: HotLaw, inner: ProposalLaw, share: Tensor) -> None:
        self._hot = HotLaw(hot.probs * (1 - share).unsqueeze(-1), hot.token_map)
        self._inner = inner
        self._share = share

    def sample(self, randomness: Randomness) -> Tensor:
        n_draft = self._hot.probs.shape[-1]
        chosen = randomness.choose(torch.cat([self._hot.probs, self._share.unsqueeze(-1)], -1))
        # r is drawn from in any case: nothing here waits for the device to tell
        other = self._inner.sample(randomness)
        return torch.where(chosen < n_draft, self._hot.token_map.to_target(chosen.clamp_max(n_draft - 1)), other)

    def prob_of(self, ids: Tensor) -> Tensor:
        return self._hot.prob_of(ids) + self._share * self._inner.prob_of(ids)

    def dense(self) -> Tensor:
        return self._hot.dense() + self._share.unsqueeze(-1) * self._inner.dense()
