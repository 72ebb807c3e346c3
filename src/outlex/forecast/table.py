"""A forecast for the terminal: a table a temperature and draft length, α by domain, verdicts, notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from outlex.forecast.result import Cell, Forecast
from outlex.metrics import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["renderable"]

_NOTHING = "–"
_COLUMNS: tuple[tuple[str, Callable[[Cell], str]], ...] = (
    ("head", lambda c: c.candidate),
    ("α, tested", lambda c: _estimate(c.acceptance_rate)),
    ("mean β", lambda c: _estimate(c.mean_beta)),
    ("ceiling", lambda c: _fraction(c.ceiling)),
    ("oov mass", lambda c: _estimate(c.oov_mass)),
    ("τ", lambda c: _estimate(c.block_efficiency, digits=2)),
    ("mbsu", lambda c: f"{c.mbsu:.2f}"),
    ("tokens/s", lambda c: _NOTHING if c.tokens_per_s is None else f"{c.tokens_per_s:.2f}"),
    ("× alone", lambda c: _NOTHING if c.expected_speedup is None else f"{c.expected_speedup:.2f}"),
    ("× untrimmed", lambda c: _estimate(c.over_untrimmed)),
)
_LEGEND = (
    "α, tested: mean acceptance probability β over positions as decoding tests them, which is what `outlex bench`"
    " reports; mean β: over every position of the text alike. ceiling: 1 − oov mass, the target's mass inside the draft"
    " vocabulary. τ: tokens a target pass, from chains along the text. mbsu: τ / (γ·c + 1) with c in bytes."
    " tokens/s, × alone: in measured seconds. ±: half of the 95 % interval, prompts as clusters."
)


def renderable(result: Forecast) -> RenderableType:
    """For `rich`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    n = result.cells[0]
    basis = "bytes of weights" if result.times is None else result.times.source
    parts: list[RenderableType] = [
        Text(
            f"Target {result.target}, drafter {result.drafter}, proposal {result.proposal}; {n.n_prompts} prompts,"
            f" {n.n_positions} positions; step times: {basis}"
        )
    ]
    for title, names, lines in _tables(result):
        table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False)
        for i, name in enumerate(names):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        parts += [Text(f"\n{title}", style="italic"), table]
    parts.append(Text())
    parts += [Text(f"• {verdict.sentence}") for verdict in result.verdicts]
    parts += [Text(f"! {note}", style="yellow") for note in result.notes]
    parts.append(Text(f"\n{_LEGEND}", style="dim"))
    return Group(*parts)


def _tables(result: Forecast) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, column names, rows), without columns that have nothing to say."""
    settings = dict.fromkeys((cell.temperature, cell.draft_len) for cell in result.cells)
    for temperature, draft_len in settings:
        own = [cell for cell in result.cells if (cell.temperature, cell.draft_len) == (temperature, draft_len)]
        whole = [cell for cell in own if cell.domain is None]
        used = [(name, tell) for name, tell in _COLUMNS if any(tell(cell) != _NOTHING for cell in whole)]
        title = f"T = {temperature:g}, γ = {draft_len}"
        yield title, [name for name, _ in used], [[tell(cell) for _, tell in used] for cell in whole]
        domains = dict.fromkeys(cell.domain for cell in own if cell.domain is not None)
        if domains:
            names = list(dict.fromkeys(cell.candidate for cell in own))
            alpha = {(cell.domain, cell.candidate): _estimate(cell.acceptance_rate) for cell in own}
            rows = [[str(domain), *(alpha[domain, name] for name in names)] for domain in domains]
            yield f"{title}: α, tested, by domain", ["domain", *names], rows


def _estimate(estimate: Estimate, *, digits: int = 3) -> str:
    if math.isnan(estimate.value):
        return _NOTHING
    half = "" if math.isnan(estimate.low) else f" ±{_fraction((estimate.high - estimate.low) / 2, digits)}"
    return f"{_fraction(estimate.value, digits)}{half}"


def _fraction(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".removeprefix("0") if 0 <= value < 1 else f"{value:.{digits}f}"
