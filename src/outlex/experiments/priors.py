"""Ablation of the prior: none, uniform, unigram, and each affinity, alone and with a calibrated share of TLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from outlex.experiments.pruning import comparison_rows, notes_of
from outlex.proposals import ColdRow, Restoring
from outlex.tuning.recipes import Recipe, recipes_of

if TYPE_CHECKING:
    from torch import Tensor

    from outlex.experiments.setup import Setup
    from outlex.tuning.evidence import Evidence

__all__ = ["COLUMNS", "QUESTION", "run"]

QUESTION = "Which prior says best where restored mass should go?"
COLUMNS = ("n_draft", "sampler", "chosen", "alpha", "gain")


def run(setup: Setup) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and notes: TLI is the prior "none"."""
    rows = []
    for size in setup.sizes:
        found = setup.compared(setup.order[:size], recipes=_recipes)
        rows += comparison_rows(found, setup.temperature, common={"n_draft": size})
    return rows, notes_of(rows)


def _recipes(evidence: Evidence) -> Sequence[Recipe]:
    """The same estimated cold mass with two fixed priors, then a kernel of each affinity."""
    fixed: dict[str, Callable[[Evidence], Restoring]] = {
        "uniform": partial(_fixed, None),
        "unigram": partial(_fixed, evidence.prior),
    }
    found = [
        Recipe(family="cold-row", name=f"cold mass, {name}", fit=fit)
        for name, fit in fixed.items()
        if len(evidence.pruned_ids)
    ]
    return [*found, *recipes_of(evidence, "sparse-kernel")]


def _fixed(prior: Tensor | None, evidence: Evidence) -> Restoring:
    return ColdRow.fit(evidence.cold_rows(prior=prior), n_target=evidence.n_target, rank=16)
