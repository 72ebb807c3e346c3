"""Search by Optuna's Tree-structured Parzen Estimator, for objectives that cannot be tried at every point.

arXiv 2603.05210 searches the size this way. The objective is any function, so it can also be a forecast of tokens a
second over size, draft length and proposal at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outlex.errors import InputError, NumericalError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Axis", "Choices", "Found", "Params", "Sizes", "Trial", "search"]

Params = Mapping[str, int | str]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Whole numbers from ``low`` to ``high``; ``log`` looks at ratios rather than at differences."""

    low: int
    high: int
    log: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InputError(
                "A search needs numbers to choose from",
                got=f"{self.low} to {self.high}",
                expected="1 or more, and the smaller end first",
                next_step="correct the range",
            )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of several names."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError("A search needs names to choose from", got="none", next_step="name at least one")


Axis = Sizes | Choices


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point and its value."""

    params: Params
    value: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of a search: the best trial, and all of them in order."""

    best: Trial
    trials: tuple[Trial, ...]


def search(
    objective: Callable[[Params], float], space: Mapping[str, Axis], *, n_trials: int = 120, seed: int = 0
) -> Found:
    """Maximise ``objective`` over ``space``. The same seed gives the same trials.

    Both ends of every range are tried first, together, so the outcome is never worse than "as small" or "as large as
    allowed". A point that comes again is not computed again.

    Args:
        objective: of a point, a finite number.
        space: the range of each parameter.
        n_trials: points to try.
        seed: of the sampler.

    Raises:
        InputError: Optuna is not installed, or nothing to search.
        NumericalError: the objective is NaN or infinite somewhere.
    """
    if n_trials < 1 or not space:
        raise InputError(
            "There is nothing to search",
            got=f"n_trials={n_trials}, {len(space)} parameters",
            expected="at least one trial and one parameter",
            next_step="raise the number of trials",
        )
    optuna = _optuna()
    distributions = {name: _distribution(optuna, axis) for name, axis in space.items()}
    known: dict[tuple[int | str, ...], float] = {}
    trials = []
    with _quiet(optuna):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        for end in (0, -1):
            study.enqueue_trial({name: _end(axis, end) for name, axis in space.items()}, skip_if_exists=True)
        for _ in range(n_trials):
            trial = study.ask(distributions)
            params: Params = dict(trial.params)
            key = tuple(params[name] for name in space)
            if key not in known:
                known[key] = float(objective(params))
            if not math.isfinite(known[key]):
                raise NumericalError(
                    "The objective of the search is not finite",
                    got=f"{known[key]} at {dict(params)}",
                    expected="a finite number everywhere in the space",
                    next_step="narrow the space, or give such points a low value",
                )
            study.tell(trial, known[key])
            trials.append(Trial(params=params, value=known[key]))
    return Found(best=max(trials, key=lambda trial: trial.value), trials=tuple(trials))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "The TPE search needs Optuna, which is not installed",
            got=error,
            expected="the extra [select]",
            next_step="pip install 'outlex[select]', or use --search exact",
        ) from error
    return optuna


def _distribution(optuna: Any, axis: Axis) -> BaseDistribution:
    if isinstance(axis, Sizes):
        distribution: BaseDistribution = optuna.distributions.IntDistribution(axis.low, axis.high, log=axis.log)
    else:
        distribution = optuna.distributions.CategoricalDistribution(axis.names)
    return distribution


def _end(axis: Axis, end: int) -> int | str:
    return axis.names[end] if isinstance(axis, Choices) else (axis.low, axis.high)[end]


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna writes a line a trial to stderr; its own level comes back afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
