"""Size, draft length and proposal at once: the paper's objective, with forecast speed for the cost of a step.

    U(k, γ, q̃) = α·C(k) + (1 − α)·R(k, γ, q̃)      R = 1 − s_0 / s(k, γ, q̃)

s are forecast tokens a second, s_0 those of the untrimmed head with the draft length and proposal that suit it best, so
R is the share of the time for a token that is saved; it is below 0 where the untrimmed head is faster. In arXiv
2603.05210 R is the cost of a draft step, which does not know that shorter lists are accepted less. A forecast knows, so
α = 0 asks for speed alone, and a larger α keeps more of the vocabulary than speed needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from outlex.forecast.setting_speeds import Setting, SpeedForecaster
from outlex.selection.coverage import CoverageCurve
from outlex.selection.pareto import thinned
from outlex.selection.size import SizeGoal, size_range
from outlex.selection.tpe import Axis, Choices, Params, Sizes, search

__all__ = ["JointPlan", "SettingSpeed", "plan_speed"]

_MOST_SIZES = 12


@dataclass(frozen=True, kw_only=True)
class SettingSpeed:
    """A setting and what it is worth.

    Attributes:
        size, draft_len, proposal: the setting.
        coverage: C(k).
        tokens_per_s: forecast.
        reduction: R.
        utility: U.
    """

    size: int
    draft_len: int
    proposal: str
    coverage: float
    tokens_per_s: float
    reduction: float
    utility: float


@dataclass(frozen=True, kw_only=True)
class JointPlan:
    """A setting and the reasons for it.

    Attributes:
        goal: what was asked for.
        choice: the setting of best utility.
        untrimmed: the setting of the untrimmed head that R compares with.
        untrimmed_tokens_per_s: its forecast speed, s_0.
        method: "every candidate" or "tpe".
        front: tried settings that nothing beats in coverage and in speed, fastest first.
        n_tried: different settings that were tried.
        seed: of TPE.
    """

    goal: SizeGoal
    choice: SettingSpeed
    untrimmed: Setting
    untrimmed_tokens_per_s: float
    method: str
    front: tuple[SettingSpeed, ...] = field(repr=False)
    n_tried: int
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON object for the artifact's provenance."""
        return {
            **asdict(self.choice),
            "objective": "speed",
            "goal": asdict(self.goal),
            "untrimmed": {**asdict(self.untrimmed), "tokens_per_s": self.untrimmed_tokens_per_s},
            "method": self.method,
            "n_tried": self.n_tried,
            **({} if self.seed is None else {"seed": self.seed}),
            "pareto": [asdict(point) for point in self.front],
        }


def plan_speed(
    curve: CoverageCurve,
    goal: SizeGoal,
    forecaster: SpeedForecaster,
    *,
    search_by: Literal["exact", "tpe"] = "exact",
    n_trials: int = 40,
    seed: int = 0,
) -> JointPlan:
    """The setting of best utility.

    "exact" tries every draft length and proposal with each candidate size: all allowed sizes if they are few, else a
    dozen in equal ratios, all in one pass over the traces. "tpe" looks at any allowed size, in a pass for each.

    Args:
        curve: C(k).
        goal: α and the limits of the size.
        forecaster: on the traces to choose by.
        search_by: how.
        n_trials, seed: of TPE.

    Raises:
        InputError: no size is allowed, step times that do not reach, or Optuna is not installed.
    """
    low, high = size_range(curve, goal)
    exact = search_by == "exact"
    sizes = list(range(low, high + 1)) if high - low < _MOST_SIZES else thinned(low, high, n=_MOST_SIZES)
    forecaster.learn(sizes if exact else [])
    kinds = [(g, q) for q in forecaster.proposals for g in forecaster.draft_lens]
    bare = [Setting(size=None, draft_len=g, proposal=q) for g, q in kinds]
    untrimmed = max(bare, key=forecaster.tokens_per_s)
    base = forecaster.tokens_per_s(untrimmed)
    known: dict[tuple[int, int, str], SettingSpeed] = {}

    def value(size: int, draft_len: int, proposal: str) -> float:
        key = (size, draft_len, proposal)
        if key not in known:
            speed = forecaster.tokens_per_s(Setting(size=size, draft_len=draft_len, proposal=proposal))
            coverage, saved = curve.at(size), 1 - base / speed
            known[key] = SettingSpeed(
                size=size,
                draft_len=draft_len,
                proposal=proposal,
                coverage=coverage,
                tokens_per_s=speed,
                reduction=saved,
                utility=goal.alpha * coverage + (1 - goal.alpha) * saved,
            )
        return known[key].utility

    def value_of(params: Params) -> float:
        return value(int(params["size"]), int(params["draft_len"]), str(params["proposal"]))

    if exact:
        for size in sizes:
            for draft_len, proposal in kinds:
                value(size, draft_len, proposal)
    else:
        space: dict[str, Axis] = {
            "size": Sizes(low=low, high=high),
            "draft_len": Choices(names=tuple(map(str, forecaster.draft_lens))),
            "proposal": Choices(names=tuple(forecaster.proposals)),
        }
        search(value_of, space, n_trials=n_trials, seed=seed)
    tried = sorted(known.values(), key=lambda point: point.size)
    return JointPlan(
        goal=goal,
        choice=max(tried, key=lambda point: point.utility),
        untrimmed=untrimmed,
        untrimmed_tokens_per_s=base,
        method="every candidate" if exact else "tpe",
        front=_front(tried),
        n_tried=len(tried),
        seed=None if exact else seed,
    )


def _front(tried: Sequence[SettingSpeed]) -> tuple[SettingSpeed, ...]:
    front: list[SettingSpeed] = []
    for point in sorted(tried, key=lambda point: (-point.tokens_per_s, -point.coverage, point.size)):
        if not front or point.coverage > front[-1].coverage:
            front.append(point)
    return tuple(front)
