"""The results as tables for the terminal and as Markdown, both from a `BenchResult` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from outlex.bench.result import BenchResult
from outlex.bench.summary import MethodSummary
from outlex.bench.verdict import verdicts
from outlex.metrics import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["markdown", "renderable"]

_NOTHING = "–"
_Columns = tuple[tuple[str, Callable[[MethodSummary], str]], ...]
_RESULT: _Columns = (
    ("method", lambda s: s.method),
    ("tokens/s", lambda s: f"{s.tokens_per_s:.2f}"),
    ("× ar", lambda s: _ratio(s, "ar")),
    ("× untrimmed", lambda s: _ratio(s, "untrimmed")),
    ("× transformers", lambda s: _ratio(s, "transformers")),
    ("α, mean β", lambda s: _estimate(s.acceptance.beta if s.acceptance else None)),
    ("α, counted", lambda s: _estimate(s.acceptance.counted if s.acceptance else None)),
    ("τ", lambda s: _number(s.block_efficiency, "{:.2f}")),
)
_COST: _Columns = (
    ("method", lambda s: s.method),
    ("draft step ms", lambda s: _number(s.draft_step_s, "{:.1f}", scale=1e3)),
    ("target pass ms", lambda s: _number(s.target_pass_s, "{:.1f}", scale=1e3)),
    ("draft / target / other %", lambda s: _split(s)),
    ("draft step MB", lambda s: _number(s.draft_bytes, "{:.0f}", scale=1e-6)),
    ("target pass MB", lambda s: _number(s.target_bytes, "{:.0f}", scale=1e-6)),
    ("forecast", lambda s: _number(s.expected_speedup, "{:.2f}")),
    ("mbsu", lambda s: _number(s.mbsu, "{:.2f}")),
)
_WITHOUT_SECONDS = ("method", "α, mean β", "α, counted", "τ")
_LEGEND = (
    "× is the ratio of tokens/s (Σ tokens / Σ seconds). α: acceptance rate, as the mean exact "
    "acceptance probability β and as accepted / tested drafts, ± half of the 95 % interval (prompts "
    "as clusters). τ: tokens a target pass. Times of a draft step and a target pass: medians, without "
    "the passes that read a prompt; MB: the weights they read. draft / target / other: shares of the "
    "wall time. forecast: τ / (γ·c + 1) with c = draft step / target pass in seconds; mbsu: in bytes."
)


def renderable(result: BenchResult) -> RenderableType:
    """For `rich`: where it was measured, two tables a temperature, and the verdicts."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(line) for line in _setting(result)]
    for title, names, lines in _tables(result):
        table = Table(title=f"\n{title}", title_justify="left", box=None, padding=(0, 0, 0, 1), pad_edge=False)
        for name in names:
            left = name == "method"
            table.add_column(name, justify="left" if left else "right", no_wrap=left)
        for line in lines:
            table.add_row(*line)
        parts.append(table)
    parts.append(Text())
    parts += [Text(f"• {sentence}") for sentence in verdicts(result)]
    parts.append(Text(f"\n{_LEGEND}", style="dim"))
    return Group(*parts)


def markdown(result: BenchResult) -> str:
    """The same for a README or a page under benchmarks/."""
    blocks = ["\n".join(f"- {line}" for line in _setting(result))]
    for title, names, lines in _tables(result):
        rows = [names, ["---"] + ["---:"] * (len(names) - 1), *lines]
        blocks.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows))
    blocks += ["\n".join(f"- {sentence}" for sentence in verdicts(result)), _LEGEND]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _tables(result: BenchResult) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, column names, rows), without columns and rows that have nothing to say."""
    tables: tuple[tuple[str, _Columns], ...] = (("result", _RESULT), ("cost", _COST))
    if _batch_size(result) > 1:
        tables = (("acceptance", tuple(column for column in _RESULT if column[0] in _WITHOUT_SECONDS)),)
    for temperature in dict.fromkeys(s.temperature for s in result.summary):
        for what, columns in tables:
            used = [(name, cell) for name, cell in columns if any(cell(s) != _NOTHING for s in result.summary)]
            rows = [[cell(s) for _, cell in used] for s in result.summary if s.temperature == temperature]
            told = [row for row in rows if any(cell != _NOTHING for cell in row[1:])]
            yield f"T = {temperature:g}, {what}", [name for name, _ in used], told


def _batch_size(result: BenchResult) -> int:
    return int(result.config.get("batch_size", 1))


def _setting(result: BenchResult) -> list[str]:
    config, models, where = result.config, result.models, result.environment
    target, drafter, versions = models["target"], models["drafter"], where["versions"]
    n_prompts = len({row.prompt_id for row in result.rows})
    lines = [
        f"Target {target['name']}, drafter {drafter['name'] if drafter else 'none'}, {target['dtype']}; "
        f"{n_prompts} prompts × {config['max_new_tokens']} tokens, γ = {config['draft_len']}, "
        f"runs of each: {config['repeats']}",
        f"{where['device_name'] or where['cpu']}, threads: {where['threads']}, "
        f"{' and '.join(where['openmp']) or 'no OpenMP'}; torch {versions['torch']}, "
        f"transformers {versions['transformers']}, outlex {versions['outlex']}, commit {_commit(where)}; "
        f"{where['date_utc']}",
    ]
    if result.memory.get("peak_rss"):
        weights = sum({m["source"]: m["n_bytes"] for m in (target, drafter) if m}.values())
        lines.append(f"Peak memory {result.memory['peak_rss'] / 1e9:.2f} GB; the weights have {weights / 1e9:.2f} GB")
    if _batch_size(result) > 1:
        lines.append(
            f"Up to {_batch_size(result)} requests shared each forward pass: "
            "acceptance is that of single requests, and speed was not measured."
        )
    if not result.complete:
        lines.append("The benchmark was cut off: these are the prompts it had finished.")
    return lines


def _commit(environment: dict[str, Any]) -> str:
    if environment["commit"] is None:
        return "unknown"
    return str(environment["commit"])[:12] + (" with changes" if environment["uncommitted_changes"] else "")


def _ratio(summary: MethodSummary, over: str) -> str:
    if summary.method == over:
        return "1.00"
    speedup = summary.speedup_over(over)
    return _NOTHING if speedup is None else f"{speedup.totals:.2f}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return _NOTHING
    half = "" if math.isnan(estimate.low) else f" ±{_fraction((estimate.high - estimate.low) / 2)}"
    return f"{_fraction(estimate.value)}{half}"


def _fraction(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value >= 0 else f"{value:.3f}"


def _number(value: float | None, pattern: str, *, scale: float = 1.0) -> str:
    return _NOTHING if value is None else pattern.format(value * scale)


def _split(summary: MethodSummary) -> str:
    if summary.draft_s is None or summary.target_s is None or summary.other_s is None:
        return _NOTHING
    shares = (part / summary.wall_s for part in (summary.draft_s, summary.target_s, summary.other_s))
    return "/".join(f"{100 * share:.0f}" for share in shares)
