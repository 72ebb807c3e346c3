"""What the numbers say, in plain sentences: the gain, its cost, and whether the prompts settle it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from outlex.bench.result import BenchResult
from outlex.bench.summary import MethodSummary, Speedup

__all__ = ["verdicts"]

_INTERVAL = "95\N{NO-BREAK SPACE}% interval"


def verdicts(result: BenchResult) -> list[str]:
    """One sentence a comparison, for each temperature; losses are said as plainly as gains.

    Compared are trimmed drafters with the untrimmed one, our untrimmed loop with transformers', and every
    method that drafts with the autoregressive loop.
    """
    sentences: list[str] = []
    of_one = _sentences if result.config.get("batch_size", 1) == 1 else _acceptance_sentences
    for temperature in dict.fromkeys(summary.temperature for summary in result.summary):
        own = {summary.method: summary for summary in result.summary if summary.temperature == temperature}
        sentences += [f"T = {temperature:g}: {sentence}" for sentence in of_one(own)]
    return sentences


def _acceptance_sentences(own: dict[str, MethodSummary]) -> Iterator[str]:
    for name, summary in own.items():
        change = _acceptance_change(summary)
        if change and name != "untrimmed":
            yield f"{name} against untrimmed: {change}."


def _sentences(own: dict[str, MethodSummary]) -> Iterator[str]:
    untrimmed = own.get("untrimmed")
    for name, summary in own.items():
        over = summary.speedup_over("untrimmed")
        if name.startswith("trimmed-") and untrimmed is not None and over is not None:
            changes = (_step_change(summary, untrimmed), _acceptance_change(summary))
            costs = ", ".join(change for change in changes if change)
            yield f"{name} against untrimmed: {costs}{' and ' if costs else ''}{_speed('it', over)}."
    over = untrimmed.speedup_over("transformers") if untrimmed is not None else None
    if over is not None:
        yield f"{_speed('untrimmed', over, than=' than transformers')}."
    for name, summary in own.items():
        over = summary.speedup_over("ar")
        if over is not None and name != "transformers-ar":
            yield f"{_speed(name, over, than=' than ar')}."
    yield from _equality(own)


def _step_change(summary: MethodSummary, untrimmed: MethodSummary) -> str:
    if summary.draft_step_s is None or untrimmed.draft_step_s is None:
        return ""
    change = summary.draft_step_s / untrimmed.draft_step_s - 1
    return f"a draft step takes {_percent(abs(change))} {'less' if change < 0 else 'more'} time"


def _acceptance_change(summary: MethodSummary) -> str:
    kept = summary.acceptance_kept
    if kept is None or math.isnan(kept.value):
        return ""
    lost = 1 - kept.value
    interval = ""
    if not math.isnan(kept.low):
        interval = f" ({_INTERVAL} {_percent(1 - kept.high)} to {_percent(1 - kept.low)})"
    return f"{_percent(lost)} of the acceptance is lost{interval}"


def _speed(who: str, over: Speedup, *, than: str = "") -> str:
    change = over.totals - 1
    plain = f"{who} decodes {_percent(abs(change))} {'faster' if change >= 0 else 'slower'}{than}"
    median, n = over.median, over.median.n
    if math.isnan(median.low):
        return f"{plain}, but so few prompts ({n}) prove nothing"
    interval = f"median prompt × {median.value:.3f}, {_INTERVAL} {median.low:.3f} to {median.high:.3f}"
    if median.low <= 1 <= median.high:
        return f"{plain} ({interval}), which {n} prompts do not settle"
    if (median.low > 1) != (change > 0):
        return f"{plain} in total, while most prompts say the opposite ({interval})"
    return f"{plain} ({interval})"


def _equality(own: dict[str, MethodSummary]) -> Iterator[str]:
    """Greedy runs that differ from the autoregressive one."""
    different = [
        f"{name} ({summary.n_runs - summary.n_same_as_ar} of {summary.n_runs} runs)"
        for name, summary in own.items()
        if summary.n_same_as_ar is not None and summary.n_same_as_ar < summary.n_runs
    ]
    if different:
        yield (
            f"the tokens were not always those of ar: {', '.join(different)}. Below float32 that is "
            "rounding: a pass over several tokens rounds unlike a pass over one. In float32, look into it."
        )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%".replace("-", "−")
