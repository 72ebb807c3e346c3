"""All experiments by name."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from outlex.bench.environment import describe_environment
from outlex.errors import InputError
from outlex.experiments import cascade, decomposition, greedy, priors, pruning, scaling, skewed
from outlex.experiments.result import ExperimentResult

if TYPE_CHECKING:
    from outlex.experiments.setup import Setup

__all__ = ["EXPERIMENTS", "run_experiment"]

EXPERIMENTS: dict[str, ModuleType] = {
    "pruning": pruning,
    "scaling": scaling,
    "priors": priors,
    "skewed": skewed,
    "cascade": cascade,
    "decomposition": decomposition,
    "greedy": greedy,
}


def run_experiment(name: str, setup: Setup) -> ExperimentResult:
    """Run one experiment.

    Raises:
        InputError: there is no such experiment, or too few prompts.
        NumericalError: logits hold NaN or infinity.
    """
    if name not in EXPERIMENTS:
        raise InputError(
            "There is no such experiment",
            got=repr(name),
            expected=", ".join(EXPERIMENTS),
            next_step="name one of them",
        )
    module = EXPERIMENTS[name]
    config = setup.config()  # first, because it splits the prompts and may end in an error
    rows, notes = module.run(setup)
    return ExperimentResult(
        name=name,
        question=module.QUESTION,
        environment=describe_environment(setup.target_head.weight.device),
        config=config,
        columns=module.COLUMNS,
        rows=tuple(rows),
        notes=tuple(notes),
    )
