"""What a target pass and a draft step cost on some machine, in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from outlex.errors import InputError

__all__ = ["StepTimes"]


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds that everything takes; what was not timed is interpolated.

    Attributes:
        target_pass_s: number of drafts a pass verifies -> seconds of the pass, verification included. 0 drafts is the
            target alone.
        draft_step_s: rows of the draft head -> seconds of a draft step, drawing the draft included.
        head_step_s: name of a head that is no plain matrix -> seconds of a draft step with it.
        target_prompt_s, draft_prompt_s: seconds a prompt token, for either model to read it. 0 forecasts decoding
            without the prompt.
        source: where the times come from, for the report.
        greedy: the same for greedy decoding, which draws nothing from wide laws; None takes these times for it too.

    Raises:
        InputError: a time that is not positive, or none at all.
    """

    target_pass_s: Mapping[int, float] = field(repr=False)
    draft_step_s: Mapping[int, float] = field(repr=False)
    head_step_s: Mapping[str, float] = field(default_factory=dict, repr=False)
    target_prompt_s: float = 0.0
    draft_prompt_s: float = 0.0
    source: str
    greedy: StepTimes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        steps = [*self.target_pass_s.values(), *self.draft_step_s.values(), *self.head_step_s.values()]
        fine = all(math.isfinite(s) and s > 0 for s in steps)
        fine &= all(math.isfinite(s) and s >= 0 for s in (self.target_prompt_s, self.draft_prompt_s))
        if not fine or not self.target_pass_s or not self.draft_step_s:
            raise InputError(
                "These step times cannot be used",
                got=f"{dict(self.target_pass_s)}, {dict(self.draft_step_s)}, {dict(self.head_step_s)}",
                expected="at least one positive time for a target pass and for a draft step",
                next_step="measure again with --measure, or give the result of a benchmark with a drafter",
            )

    def at(self, temperature: float) -> StepTimes:
        """Those for decoding at a temperature."""
        return self.greedy if temperature == 0 and self.greedy is not None else self

    def target_pass(self, n_drafts: int) -> float | None:
        """Seconds of a pass that verifies so many drafts; None outside what was timed."""
        return _between(self.target_pass_s, n_drafts)

    def draft_step(self, n_draft: int) -> float | None:
        """Seconds of a draft step with a head of so many rows; None outside what was timed."""
        return _between(self.draft_step_s, n_draft)

    def head_step(self, name: str) -> float | None:
        """Seconds of a draft step with the head of that name; None if it was not timed."""
        return self.head_step_s.get(name)


def _between(known: Mapping[int, float], x: int) -> float | None:
    """Linear between the two nearest: a head's time grows with its rows, a pass's time with its tokens."""
    xs = sorted(known)
    if not xs[0] <= x <= xs[-1]:
        return None
    return float(np.interp(x, xs, [known[i] for i in xs]))
