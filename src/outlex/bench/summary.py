"""From single runs to the numbers of a method: sums first, ratios last, speeds never averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from outlex.bench.config import BASELINES
from outlex.bench.intervals import median_interval, ratio_of_ratios
from outlex.bench.rows import MethodInfo, Row
from outlex.metrics import Estimate, clustered_ratio, expected_speedup

__all__ = ["Acceptance", "MethodSummary", "Speedup", "summarize"]


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Measured speed against another method.

    Attributes:
        over: the other method.
        totals: ratio of tokens per second, each Σ tokens / Σ seconds.
        median: of the prompts' own ratios (seconds a token of the other / of this one), with its interval.
        quartiles: 25 % and 75 % of those ratios.
    """

    over: str
    totals: float
    median: Estimate
    quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """α, estimated twice; intervals take prompts as clusters.

    Attributes:
        beta: mean of the exact acceptance probability over tested drafts; much less noise.
        counted: accepted / tested drafts.
    """

    beta: Estimate
    counted: Estimate


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """One method at one temperature. None stands for what the method does not tell or what has no reference.

    Attributes:
        temperature, method: which.
        n_runs, n_tokens, wall_s: sums over all runs.
        tokens_per_s: n_tokens / wall_s.
        speedups: against each reference method in the benchmark; over "ar" it is the wall speed-up.
        acceptance: over all prompts.
        acceptance_by_domain: the same for each domain.
        acceptance_kept: mean β here / mean β of the untrimmed drafter.
        block_efficiency: τ, tokens a target pass.
        draft_s, target_s, other_s: where the wall time went; head_s is the draft head's part of draft_s.
        draft_step_s, target_pass_s: medians over runs; blocks that read a prompt are left out.
        draft_bytes, target_bytes: weights read by one draft step and one target pass.
        expected_speedup: τ / (γ·c + 1) with c in measured seconds. It supposes that a pass over γ + 1 tokens
            takes as long as a pass over one, and that nothing else takes time.
        mbsu: the same with c in bytes.
        n_same_as_ar: runs whose tokens are exactly those of "ar"; greedy only. Below float32 a pass over
            several tokens rounds differently from a pass over one, so near-ties fall differently.
    """

    temperature: float
    method: str
    n_runs: int
    n_tokens: int
    wall_s: float
    tokens_per_s: float
    speedups: tuple[Speedup, ...]
    acceptance: Acceptance | None
    acceptance_by_domain: dict[str, Acceptance]
    acceptance_kept: Estimate | None
    block_efficiency: float | None
    draft_s: float | None
    head_s: float | None
    target_s: float | None
    other_s: float | None
    draft_step_s: float | None
    target_pass_s: float | None
    draft_bytes: int | None
    target_bytes: int | None
    expected_speedup: float | None
    mbsu: float | None
    n_same_as_ar: int | None

    def speedup_over(self, method: str) -> Speedup | None:
        """Speed against one reference, if it was measured."""
        return next((s for s in self.speedups if s.over == method), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN becomes null."""
        cleaned: dict[str, Any] = _without_nan(asdict(self))
        return cleaned


def summarize(rows: Sequence[Row], methods: Sequence[MethodInfo], *, draft_len: int) -> tuple[MethodSummary, ...]:
    """Summaries in the order of temperatures (as run) and methods."""
    summaries = []
    for temperature in dict.fromkeys(row.temperature for row in rows):
        runs = {
            info.name: [r for r in rows if (r.temperature, r.method) == (temperature, info.name)] for info in methods
        }
        runs = {name: own for name, own in runs.items() if own}
        summaries += [_summary(info, runs, draft_len) for info in methods if info.name in runs]
    return tuple(summaries)


def _summary(info: MethodInfo, runs: dict[str, list[Row]], draft_len: int) -> MethodSummary:
    own = runs[info.name]
    n_tokens, wall_s = sum(row.n_tokens for row in own), sum(row.wall_s for row in own)
    n_passes, draft_s, target_s = _total(own, "n_passes"), _total(own, "draft_s"), _total(own, "target_s")
    tau = n_tokens / n_passes if n_passes else None
    step_s, pass_s = _median(own, "draft_step_s"), _median(own, "target_pass_s")
    has_drafts = bool(_total(own, "n_tested"))
    domains = dict.fromkeys(row.domain for row in own) if has_drafts else ()
    return MethodSummary(
        temperature=own[0].temperature,
        method=info.name,
        n_runs=len(own),
        n_tokens=n_tokens,
        wall_s=wall_s,
        tokens_per_s=n_tokens / wall_s,
        speedups=tuple(
            _speedup(own, runs[name], over=name) for name in BASELINES if name in runs and name != info.name
        ),
        acceptance=_acceptance(own) if has_drafts else None,
        acceptance_by_domain={name: _acceptance([r for r in own if r.domain == name]) for name in domains},
        acceptance_kept=_kept(own, runs["untrimmed"]) if has_drafts and "untrimmed" in runs else None,
        block_efficiency=tau,
        draft_s=draft_s,
        head_s=_total(own, "head_s"),
        target_s=target_s,
        other_s=wall_s - draft_s - target_s if draft_s is not None and target_s is not None else None,
        draft_step_s=step_s,
        target_pass_s=pass_s,
        draft_bytes=info.draft_bytes,
        target_bytes=info.target_bytes,
        expected_speedup=expected_speedup(tau, draft_len, step_s / pass_s) if tau and step_s and pass_s else None,
        mbsu=(
            expected_speedup(tau, draft_len, info.draft_bytes / info.target_bytes)
            if tau and info.draft_bytes and info.target_bytes
            else None
        ),
        n_same_as_ar=_n_same(own, runs["ar"]) if own[0].temperature == 0 and "ar" in runs else None,
    )


def _total(rows: Sequence[Row], name: str) -> float | None:
    values = [getattr(row, name) for row in rows]
    return None if any(value is None for value in values) else sum(values)


def _median(rows: Sequence[Row], name: str) -> float | None:
    values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return median(values) if values else None


def _per_prompt(rows: Sequence[Row], *names: str) -> dict[str, list[float]]:
    """Sums over the runs of each prompt, in the order of `names`; what a run does not know counts as 0."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        own = sums.setdefault(row.prompt_id, [0.0] * len(names))
        for i, name in enumerate(names):
            own[i] += getattr(row, name) or 0.0
    return sums


def _acceptance(rows: Sequence[Row]) -> Acceptance:
    betas, accepted, tested = zip(*_per_prompt(rows, "sum_beta", "n_accepted", "n_tested").values(), strict=True)
    return Acceptance(beta=clustered_ratio(betas, tested), counted=clustered_ratio(accepted, tested))


def _kept(own: Sequence[Row], untrimmed: Sequence[Row]) -> Estimate:
    mine, theirs = (_per_prompt(rows, "sum_beta", "n_tested") for rows in (own, untrimmed))
    shared = [prompt for prompt in mine if prompt in theirs]
    a, m = [mine[p][0] for p in shared], [mine[p][1] for p in shared]
    b, n = [theirs[p][0] for p in shared], [theirs[p][1] for p in shared]
    return ratio_of_ratios((a, m), (b, n))


def _speedup(own: Sequence[Row], other: Sequence[Row], *, over: str) -> Speedup:
    mine, theirs = (_per_prompt(rows, "wall_s", "n_tokens") for rows in (own, other))
    ratios = [
        (theirs[prompt][0] / theirs[prompt][1]) / (mine[prompt][0] / mine[prompt][1])
        for prompt in mine
        if prompt in theirs
    ]
    first, third = np.percentile(ratios, [25, 75]) if ratios else (math.nan, math.nan)
    mine_s, mine_n = (sum(column) for column in zip(*mine.values(), strict=True))
    their_s, their_n = (sum(column) for column in zip(*theirs.values(), strict=True))
    return Speedup(
        over=over,
        totals=(mine_n / mine_s) / (their_n / their_s),
        median=median_interval(ratios),
        quartiles=(float(first), float(third)),
    )


def _n_same(own: Sequence[Row], ar: Sequence[Row]) -> int:
    wanted = {(row.prompt_id, row.repeat): row.token_ids for row in ar}
    return sum(wanted.get((row.prompt_id, row.repeat)) == row.token_ids for row in own)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value
