"""From evidence to a draft vocabulary: the order of the ids, the size, and why it is that size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from outlex.errors import InputError
from outlex.selection.cost import Cost, LinearCost
from outlex.selection.coverage import CoverageCurve, coverage_curve
from outlex.selection.pareto import ParetoPoint, pareto_front, thinned
from outlex.selection.ranking import Ranked
from outlex.selection.size import (
    SizeChoice,
    SizeGoal,
    best_size,
    choice_at,
    closed_form_size,
    pays_above,
    size_range,
    utility,
)
from outlex.selection.tpe import Params, Sizes, search
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.selection import select_ids
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["SearchName", "SizePlan", "curve_of", "plan_size"]

SearchName = Literal["exact", "tpe"]

_N_ROWS_OF_TABLE = 12


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """A size and the reasons for it.

    Attributes:
        goal, cost: what was asked for.
        choice: the size.
        method: "closed form", "every size" or "tpe".
        n_trials, seed: of a TPE search.
        front: sizes that nothing beats, a table's worth of them, the chosen one included unless another beats it.
    """

    goal: SizeGoal
    cost: Cost
    choice: SizeChoice
    method: str
    front: tuple[ParetoPoint, ...] = field(repr=False)
    n_trials: int | None = None
    seed: int | None = None

    @property
    def threshold(self) -> float | None:
        """Share of the tokens above which a row pays; None where there is no such number."""
        if isinstance(self.cost, LinearCost) and self.goal.alpha > 0:
            return pays_above(self.cost, alpha=self.goal.alpha)
        return None

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON object for the artifact's provenance."""
        return {
            **asdict(self.choice),
            "goal": asdict(self.goal),
            "method": self.method,
            **({} if self.n_trials is None else {"n_trials": self.n_trials, "seed": self.seed}),
            "cost": self.cost.to_json(),
            "pays_above": self.threshold,
            "pareto": [asdict(point) for point in self.front],
        }


def curve_of(ranked: Ranked, *, facts: TokenizerFacts, n_target: int, must_keep: MustKeep) -> CoverageCurve:
    """C(k) for every size that a sub-vocabulary of this ranking can have.

    Args:
        ranked: order and weights.
        facts: of the tokenizer.
        n_target: rows that both heads have; ids beyond cannot be kept.
        must_keep: ids that stay at every size.

    Raises:
        InputError: the ranking is an order without counts.
    """
    if ranked.weights is None:
        raise InputError(
            "The size cannot be chosen by a list without counts",
            got=ranked.provenance.get("source"),
            expected="counts, statistics or traces",
            next_step="give --size a number, or count a corpus with 'outlex count' and give that as --tokens",
        )
    n_usable = sum(piece is not None for piece in facts.pieces[:n_target])
    whole = select_ids(ranked.ids, size=n_usable, facts=facts, n_target=n_target, must_keep_ids=must_keep.ids)
    must = torch.zeros(facts.n_entries, dtype=torch.bool)
    must[whole.kept] = True
    return coverage_curve(whole.ids, must=must, weights=ranked.weights)


def plan_size(
    curve: CoverageCurve,
    cost: Cost,
    goal: SizeGoal,
    *,
    search_by: SearchName = "exact",
    n_trials: int = 120,
    seed: int = 0,
) -> SizePlan:
    """The size that maximises U(k), searched exactly or by TPE.

    Raises:
        InputError: no size is allowed (see `outlex.selection.size.size_range`), or Optuna is not installed.
    """
    trials: int | None = None
    if search_by == "tpe":
        choice, method, trials = _tpe(curve, cost, goal, n_trials=n_trials, seed=seed), "tpe", n_trials
    elif isinstance(cost, LinearCost) and curve.is_concave:
        choice, method = closed_form_size(curve, cost, goal), "closed form"
    else:
        choice, method = best_size(curve, cost, goal), "every size"
    shown = thinned(curve.smallest, curve.largest, n=_N_ROWS_OF_TABLE)
    return SizePlan(
        goal=goal,
        cost=cost,
        choice=choice,
        method=method,
        front=pareto_front([*shown, choice.size], curve, cost),
        n_trials=trials,
        seed=None if trials is None else seed,
    )


def _tpe(curve: CoverageCurve, cost: Cost, goal: SizeGoal, *, n_trials: int, seed: int) -> SizeChoice:
    low, high = size_range(curve, goal)

    def objective(params: Params) -> float:
        return utility(int(params["size"]), curve, cost, goal)

    found = search(objective, {"size": Sizes(low=low, high=high)}, n_trials=n_trials, seed=seed)
    return choice_at(int(found.best.params["size"]), curve, cost, goal)
