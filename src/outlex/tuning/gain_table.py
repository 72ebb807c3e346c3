"""Gains of all mixtures at calibration positions, and the λ that each way of choosing makes of them.

One pass over the positions keeps gain(λ) of every proposal, temperature and λ of the grid; everything after that is
arithmetic on small tables. A mixture is judged by cross-validation over prompts: no prompt's gain comes from a λ that
was chosen on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.proposals.mixed import GRID
from outlex.proposals.mixture_gains import Contest, best_weight
from outlex.proposals.tli import Tli
from outlex.sampling import SamplingParams, probabilities
from outlex.tuning.positions import scored_positions

if TYPE_CHECKING:
    from outlex.calibration.traces import TraceSet
    from outlex.heads.base import DraftHead
    from outlex.heads.linear import LinearHead
    from outlex.proposals.cold_groups import ColdTokens
    from outlex.proposals.restoring import Restoring

__all__ = ["GainPlace", "GainTable", "Mode", "Weights", "gain_table"]

Mode = Literal["one λ", "λ by temperature", "λ by cold mass"]
Weights = tuple[tuple[float, ...], ...]  # a row a temperature, a column a range of the cold mass

_N_FOLDS = 5
_RANGES = (1 / 3, 2 / 3)  # quantiles of the estimated cold mass between which λ may change


@dataclass(frozen=True, kw_only=True, eq=False)
class GainTable:
    """Gains at calibration positions.

    Attributes:
        temperatures: ascending.
        gains: (proposal, temperature) -> float64 [n, λ].
        mass: temperature -> estimated cold mass [n].
        prompts: temperature -> int64 [n]; one number is one prompt, at every temperature.
    """

    temperatures: tuple[float, ...]
    gains: Mapping[tuple[int, float], Tensor] = field(repr=False)
    mass: Mapping[float, Tensor] = field(repr=False)
    prompts: Mapping[float, Tensor] = field(repr=False)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Ways of choosing λ that differ here."""
        several: tuple[Mode, ...] = ("λ by temperature",) if len(self.temperatures) > 1 else ()
        by_mass: tuple[Mode, ...] = ("λ by cold mass",) if self.edges else ()
        return ("one λ", *several, *by_mass)

    @cached_property
    def edges(self) -> tuple[float, ...]:
        """Of the ranges of the cold mass; none where it does not vary. At temperature 0 it is 0 and says nothing."""
        mass = torch.cat([self.mass[t] for t in self.temperatures if t > 0]).double()
        edges = sorted(set(mass.quantile(mass.new_tensor(_RANGES)).tolist()))
        return tuple(edge for edge in edges if edge > float(mass.min()))

    def weights(self, proposal: int, mode: Mode, *, without: int | None = None) -> Weights:
        """λ, chosen on all prompts but those of one fold.

        Each is that of the largest mean gain, and 0 where the 95 % interval of that gain reaches down to 0.
        """
        cells: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for at, temperature in enumerate(self.temperatures):
            gains, prompts = self.gains[proposal, temperature], self.prompts[temperature]
            found = self._ranges(temperature, mode)
            kept = torch.ones_like(prompts, dtype=torch.bool) if without is None else prompts % _N_FOLDS != without
            for column in range(self._n_ranges(mode)):
                own = kept & (found == column)
                cells.setdefault((0 if mode == "one λ" else at, column), []).append((gains[own], prompts[own]))
        best = {
            cell: best_weight(torch.cat([g for g, _ in parts]), torch.cat([c for _, c in parts]), GRID)
            for cell, parts in cells.items()
        }
        return tuple(
            tuple(best[0 if mode == "one λ" else at, column] for column in range(self._n_ranges(mode)))
            for at in range(len(self.temperatures))
        )

    def gain(self, proposal: int, mode: Mode, weights: Weights, temperature: float) -> Tensor:
        """Gain over TLI at each position of one temperature: float64 [n]."""
        row = torch.tensor([GRID.index(share) for share in weights[self.temperatures.index(temperature)]])
        columns = row[self._ranges(temperature, mode)]
        return self.gains[proposal, temperature].gather(1, columns.unsqueeze(-1)).squeeze(-1)

    def honest_gain(self, proposal: int, mode: Mode) -> dict[float, Tensor]:
        """The same at each temperature, with λ chosen on the other folds' prompts."""
        found = {t: torch.zeros_like(self.gains[proposal, t][:, 0]) for t in self.temperatures}
        for fold in range(_N_FOLDS):
            weights = self.weights(proposal, mode, without=fold)
            for temperature in self.temperatures:
                own = self.prompts[temperature] % _N_FOLDS == fold
                found[temperature][own] = self.gain(proposal, mode, weights, temperature)[own]
        return found

    def _n_ranges(self, mode: Mode) -> int:
        return len(self.edges) + 1 if mode == "λ by cold mass" else 1

    def _ranges(self, temperature: float, mode: Mode) -> Tensor:
        if mode != "λ by cold mass":
            return torch.zeros_like(self.prompts[temperature])
        return torch.bucketize(self.mass[temperature].double(), torch.tensor(self.edges).double(), right=True)


class GainPlace(NamedTuple):
    """Where the gains of a proposal stand: a table, and the proposal's number in it."""

    table: GainTable
    proposal: int


@torch.inference_mode()
def gain_table(
    sets: Mapping[float, Sequence[TraceSet]],
    head: DraftHead,
    proposals: Sequence[Restoring],
    *,
    estimator: ColdTokens | None,
    target_head: LinearHead,
    on_progress: Callable[[int, int], None],
) -> GainTable:
    """Measure the gains.

    Args:
        sets: temperature -> traces to calibrate it on; one may serve several temperatures.
        head: the draft head.
        proposals: r of each mixture.
        estimator: of the cold mass; None takes it for 0.
        target_head: whole.
        on_progress: called with the positions done and all of this set.

    Raises:
        NumericalError: a proposal's law is NaN.
    """
    gains: dict[tuple[int, float], list[Tensor]] = {}
    mass: dict[float, list[Tensor]] = {}
    prompts: dict[float, list[Tensor]] = {}
    numbers: dict[str, int] = {}
    for one in {id(one): one for several in sets.values() for one in several}.values():
        own = [t for t, several in sets.items() if any(other is one for other in several)]
        number_of = torch.tensor([numbers.setdefault(prompt.id, len(numbers)) for prompt in one.prompts])
        for index, scores, logits in scored_positions(one, head, target_head=target_head, on_progress=on_progress):
            for temperature in own:
                params = SamplingParams(temperature=temperature)
                hot = Tli().law(scores, params)
                contest = Contest.of(hot, probabilities(logits, params))
                for i, proposal in enumerate(proposals):
                    found = contest.gains(proposal.restore(hot, scores, params), GRID)
                    gains.setdefault((i, temperature), []).append(found.cpu())
                cold = contest.p_hot.new_zeros(len(index)) if estimator is None else estimator.cold_mass(scores, params)
                mass.setdefault(temperature, []).append(cold.cpu())
                prompts.setdefault(temperature, []).append(number_of[index])
    table = GainTable(
        temperatures=tuple(sorted(sets)),
        gains={key: torch.cat(parts) for key, parts in gains.items()},
        mass={key: torch.cat(parts) for key, parts in mass.items()},
        prompts={key: torch.cat(parts) for key, parts in prompts.items()},
    )
    if any(bool(of_one.isnan().any()) for of_one in table.gains.values()):
        raise NumericalError(
            "λ cannot be chosen: the logits or the hidden states hold NaN or infinity",
            expected="finite numbers",
            next_step="trace again in float32 (--dtype float32)",
        )
    return table
