"""Step times for a forecast, out of a benchmark that was run on the machine in question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from outlex.errors import InputError

if TYPE_CHECKING:
    from outlex.bench.rows import Row
    from outlex.forecast import StepTimes

__all__ = ["times_of_bench"]


def times_of_bench(path: Path) -> StepTimes:
    """Medians of the benchmark's passes and draft steps, temperatures pooled.

    A head that is no plain matrix has the time of the method with its name. What a run spends outside both models is
    counted to its target passes; what its medians do not explain went into reading the prompt.

    Raises:
        ArtifactError: no benchmark result.
        InputError: a benchmark without a drafter.
    """
    from outlex.bench import BenchResult
    from outlex.forecast import StepTimes

    result = BenchResult.load(path)
    runs = {info.name: [row for row in result.rows if row.method == info.name] for info in result.methods}
    passes: dict[int, list[float]] = {}
    steps: dict[int, float] = {}
    named: dict[str, float] = {}
    reading: dict[bool, list[float]] = {True: [], False: []}
    for info in result.methods:
        own = [row for row in runs[info.name] if row.target_pass_s is not None and row.n_passes]
        step_s = _median([row.draft_step_s for row in own]) if info.n_draft is not None else 0.0
        if not own or step_s is None:
            continue
        pass_s = _median([row.target_pass_s for row in own]) or 0.0
        pass_s += sum(_other_s(row) for row in own) / sum(row.n_passes or 0 for row in own)
        draft_len = 0 if info.n_draft is None else int(result.config["draft_len"])
        passes.setdefault(draft_len, []).append(pass_s)
        if info.n_draft is not None:
            named[info.name] = step_s
            if info.name.startswith(("untrimmed", "trimmed-")):
                steps[info.n_draft] = step_s
        spent = sum(row.wall_s - (row.n_passes or 0) * pass_s - (row.n_drafted or 0) * step_s for row in own)
        reading[info.n_draft is None].append(max(0.0, spent / sum(row.n_prompt for row in own)))
    if not steps:
        raise InputError(
            "This benchmark has no times of a drafter",
            got=f"{path.name} with the methods {', '.join(runs)}",
            expected="the method untrimmed or a trimmed drafter, with more than one block a run",
            next_step="run `outlex bench` with --drafter and --baselines ar,untrimmed, or use --measure",
        )
    both = median(reading[False])
    alone = median(reading[True]) if reading[True] else both
    return StepTimes(
        target_pass_s={n: median(values) for n, values in passes.items()},
        draft_step_s=steps,
        head_step_s=named,
        target_prompt_s=min(alone, both),
        draft_prompt_s=max(0.0, both - alone),
        source=f"benchmark {path.name}, {result.environment.get('threads')} threads",
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _other_s(row: Row) -> float:
    return row.wall_s - (row.draft_s or 0.0) - (row.target_s or 0.0)
