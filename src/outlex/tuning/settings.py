"""What to tune, and the three parts that traced prompts are split into."""

from __future__ import annotations

from dataclasses import dataclass

from outlex.calibration.traces import TraceSet
from outlex.errors import InputError
from outlex.tuning.recipes import FAMILIES

__all__ = ["TuneSettings", "split_prompts"]

_FEWEST_PROMPTS = 12
_CALIBRATE_SHARE = 0.6  # of the prompts that are not fitted to: a domain's last one calibrates


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """What to fit.

    Attributes:
        family: "auto", "tli", or one of `outlex.tuning.recipes.FAMILIES`.
        temperatures: that decoding will run at; None takes those of the traces.
        fit_share: of the prompts, to fit to; of the others 0.6 calibrate and 0.4 are held out.
        seed: of the split.

    Raises:
        InputError: a value out of range, or temperatures at which there is nothing to tune.
    """

    family: str = "auto"
    temperatures: tuple[float, ...] | None = None
    fit_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.family not in ("auto", "tli", *FAMILIES):
            raise InputError(
                "There is no such proposal",
                got=repr(self.family),
                expected=f"auto, tli, {', '.join(FAMILIES)}",
                next_step="auto fits and compares all of them",
            )
        given = self.temperatures
        if given is not None and (len(set(given)) < len(given) or not all(0 <= t < float("inf") for t in given)):
            raise InputError(
                "These temperatures cannot be tuned for",
                got=list(given),
                expected="different finite numbers from 0",
                next_step="give each --temperature once",
            )
        if not 0 < self.fit_share < 1:
            raise InputError(
                "The traces cannot be split so",
                got=self.fit_share,
                expected="a share of the prompts to fit to, between 0 and 1",
                next_step="leave it at 0.5",
            )


def split_prompts(one: TraceSet, settings: TuneSettings) -> tuple[TraceSet, TraceSet, TraceSet]:
    """Prompts to fit to, to calibrate on, to compare on.

    Raises:
        InputError: there are too few.
    """
    if len(one.prompts) < _FEWEST_PROMPTS:
        raise InputError(
            "There are too few prompts to fit to some, calibrate on others and compare on a third part",
            got=f"{len(one.prompts)} traced prompts",
            expected=f"at least {_FEWEST_PROMPTS}; a hundred are better",
            next_step="trace more prompts with `outlex trace`",
        )
    first, rest = one.split(settings.fit_share, seed=settings.seed)
    return (first, *rest.split(_CALIBRATE_SHARE, seed=settings.seed))
