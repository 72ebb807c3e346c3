"""From gains to trials, and from trials to the one that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from outlex.metrics import Estimate
from outlex.proposals import ColdRow, Mixed, Restoring
from outlex.proposals.mixture_gains import mean_gain
from outlex.tuning.evidence import Evidence
from outlex.tuning.gain_table import GainPlace, GainTable, Weights
from outlex.tuning.recipes import Recipe
from outlex.tuning.result import Trial

__all__ = ["choose", "cold_estimator", "tli_trial", "trials_of"]

_ESTIMATOR_RANK = 16
_ERROR = 0.05  # of taking something that does not gain


def cold_estimator(evidence: Evidence) -> ColdRow | None:
    """What estimates the mass of pruned rows; None where none was pruned."""
    if not len(evidence.pruned_ids):
        return None
    with torch.inference_mode():
        cold = evidence.cold_rows(prior=evidence.prior)
        return ColdRow.fit(cold, n_target=evidence.n_target, rank=_ESTIMATOR_RANK)


def tli_trial(temperatures: Sequence[float]) -> Trial:
    nothing = {t: Estimate(value=0.0, low=0.0, high=0.0, n=0) for t in temperatures}
    return Trial(name="tli", mode="", proposal=None, weights=None, fit_s=0.0, n_bytes=0, expected=nothing)


def trials_of(
    recipes: Sequence[Recipe],
    fitted: Sequence[tuple[Restoring, float]],
    gains: Sequence[GainPlace],
    estimator: ColdRow | None,
) -> list[Trial]:
    """Each proposal alone, then mixed in the way that gains most on folds it was not chosen on."""
    found = []
    for recipe, (proposal, fit_s), (table, i) in zip(recipes, fitted, gains, strict=True):
        common: dict[str, Any] = {"name": recipe.name, "fit_s": fit_s}
        alone = {t: mean_gain(table.gains[i, t][:, -1], table.prompts[t]) for t in table.temperatures}
        found.append(
            Trial(**common, mode="alone", proposal=proposal, weights=None, n_bytes=_n_bytes(proposal), expected=alone)
        )
        honest = {mode: table.honest_gain(i, mode) for mode in table.modes}
        mode = max(table.modes, key=lambda m: sum(float(gain.mean()) for gain in honest[m].values()))
        weights = table.weights(i, mode)
        mixed = _mixed(proposal, table, weights, estimator)
        found.append(
            Trial(
                **common,
                mode=mode,
                proposal=mixed,
                weights=weights,
                n_bytes=_n_bytes(mixed),
                expected={t: mean_gain(gain, table.prompts[t]) for t, gain in honest[mode].items()},
            )
        )
    return found


def _mixed(proposal: Restoring, table: GainTable, weights: Weights, estimator: ColdRow | None) -> Mixed:
    temperatures = table.temperatures
    if 0.0 not in temperatures:  # greedy drafting was not asked for: it stays TLI
        temperatures, weights = (0.0, *temperatures), ((0.0,) * len(weights[0]), *weights)
    by_mass = len(weights[0]) > 1
    return Mixed(
        inner=proposal,
        weights=weights,
        temperatures=temperatures,
        edges=table.edges if by_mass else (),
        estimator=estimator if by_mass else None,
    )


def _n_bytes(proposal: Restoring) -> int:
    return sum(tensor.nbytes for tensor in proposal.to_parts()[1].values())


def choose(trials: Sequence[Trial], gains: Sequence[GainPlace], recipes: Sequence[Recipe]) -> tuple[int, str]:
    """Index of the best trial, and why.

    The 5 % of error are divided among the candidates (Bonferroni): half among those that nothing was fitted for, of
    which there are few, half among the others; all to one kind where the other is missing.
    """
    places = {recipe.name: place for recipe, place in zip(recipes, gains, strict=True)}
    is_fitted = {recipe.name: recipe.is_fitted for recipe in recipes}
    mixtures = [i for i, trial in enumerate(trials) if trial.weights is not None]
    if not mixtures:
        return 0, "nothing else was asked for"
    kinds = [is_fitted[trials[i].name] for i in mixtures]
    allowed = _ERROR / len(set(kinds))
    passed, values = [], {}
    for i, kind in zip(mixtures, kinds, strict=True):
        trial = trials[i]
        assert trial.weights is not None
        table, column = places[trial.name]
        found = table.honest_gain(column, trial.mode)  # type: ignore[arg-type]
        together = torch.cat([found[t] for t in table.temperatures])
        prompts = torch.cat([table.prompts[t] for t in table.temperatures])
        pooled = mean_gain(together, prompts, confidence=1 - allowed / kinds.count(kind))
        values[i] = pooled.value
        if pooled.low > 0 and all(one.value >= 0 for one in trial.expected.values()):
            passed.append(i)
    if passed:
        best = max(passed, key=lambda i: values[i])
        return best, (
            f"{trials[best].label} gains {values[best]:+.4f} over TLI on the calibration prompts, cross-validated, and"
            f" is above 0 with 95 % confidence for {len(mixtures)} candidates together"
        )
    best = max(mixtures, key=lambda i: values[i])
    return 0, (
        f"no proposal gains over TLI with 95 % confidence on the calibration prompts; the best, {trials[best].name},"
        f" gains {values[best]:+.4f}"
    )
