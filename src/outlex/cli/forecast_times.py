"""Step times for a forecast, out of a benchmark that was run on the machine in question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.bench import BenchResult
    from outlex.bench.rows import Row
    from outlex.forecast import StepTimes

__all__ = ["times_of_bench"]


def times_of_bench(path: Path) -> StepTimes:
    """Medians of the benchmark's passes and draft steps, greedy runs apart from sampled ones.

    A head that is no plain matrix has the time of the method with its name. What a run spends outside both models is
    counted to its target passes as far as the target alone spends it too, and beyond that to its draft steps: making
    laws and drawing from them. What its medians do not explain went into reading the prompt.

    Raises:
        ArtifactError: no benchmark result.
        InputError: a benchmark without a drafter, or without seconds of single requests.
    """
    from outlex.bench import BenchResult

    result = BenchResult.load(path)
    sampled, greedy = (
        _times(result, [row for row in result.rows if (row.temperature == 0) == is_greedy], path.name)
        for is_greedy in (False, True)
    )
    times = greedy if sampled is None else replace(sampled, greedy=greedy)
    if times is None:
        raise InputError(
            "This benchmark has no times of a drafter",
            got=f"{path.name} with the methods {', '.join(info.name for info in result.methods)}",
            expected="the method untrimmed or a trimmed drafter, with more than one block a run, one request at a time",
            next_step="run `outlex bench` with --drafter and --baselines ar,untrimmed and without --batch-size, or use"
            " --measure",
        )
    return times


def _times(result: BenchResult, rows: Sequence[Row], name: str) -> StepTimes | None:
    from outlex.forecast import StepTimes

    passes: dict[int, list[float]] = {}
    steps: dict[int, float] = {}
    named: dict[str, float] = {}
    reading: dict[bool, list[float]] = {True: [], False: []}
    runs = {
        info.name: [row for row in rows if row.method == info.name and row.target_pass_s is not None and row.n_passes]
        for info in result.methods
    }
    alone_s = [_other_s(runs[info.name]) for info in result.methods if info.n_draft is None and runs[info.name]]
    for info in result.methods:
        own = runs[info.name]
        step_s = _median([row.draft_step_s for row in own]) if info.n_draft is not None else 0.0
        if not own or step_s is None:
            continue
        n_passes, n_drafted = sum(row.n_passes or 0 for row in own), sum(row.n_drafted or 0 for row in own)
        other_s = _other_s(own)
        pass_s = (_median([row.target_pass_s for row in own]) or 0.0) + min([other_s, *alone_s])
        draft_len = 0 if info.n_draft is None else int(result.config["draft_len"])
        passes.setdefault(draft_len, []).append(pass_s)
        if info.n_draft is not None:
            step_s += max(0.0, other_s - min(alone_s, default=other_s)) * n_passes / n_drafted
            named[info.name] = step_s
            if info.name.startswith(("untrimmed", "trimmed-")):
                steps[info.n_draft] = step_s
        spent = sum(row.wall_s for row in own) - n_passes * pass_s - n_drafted * step_s
        reading[info.n_draft is None].append(max(0.0, spent / sum(row.n_prompt for row in own)))
    if not steps:
        return None
    both = median(reading[False])
    alone = median(reading[True]) if reading[True] else both
    return StepTimes(
        target_pass_s={n: median(values) for n, values in passes.items()},
        draft_step_s=steps,
        head_step_s=named,
        target_prompt_s=min(alone, both),
        draft_prompt_s=max(0.0, both - alone),
        source=f"benchmark {name}, {result.environment.get('threads')} threads",
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _other_s(rows: Sequence[Row]) -> float:
    """Seconds a target pass outside both models."""
    spent = sum(row.wall_s - (row.draft_s or 0.0) - (row.target_s or 0.0) for row in rows)
    return spent / sum(row.n_passes or 0 for row in rows)
