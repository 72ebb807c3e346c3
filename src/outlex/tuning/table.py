"""What `tune` found, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlex.tuning.result import Trial, Tuned

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["renderable"]


def renderable(found: Tuned) -> RenderableType:
    """For `rich`."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    comparison = found.comparison
    for temperature in comparison.temperatures:
        table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False)
        for i, name in enumerate(("proposal", "λ", "α", "− TLI", "95 % interval", "fit", "size")):
            table.add_column(name, justify="right" if i > 1 else "left", no_wrap=True)
        for trial in comparison.trials:
            table.add_row(*_line(trial, temperature), style="bold" if trial is comparison.chosen else "")
        parts += [Text(f"\nT = {temperature:g}", style="italic"), table]
    parts.append(Text(f"\nchosen: {comparison.chosen.label}, because {comparison.reason}."))
    parts.append(
        Text(
            "\nFitted to {fit} prompts, λ and the choice from {calibrate}, compared here on {held_out} others.".format(
                **found.n_prompts
            )
            + " α: mean β. Intervals: paired, prompts as clusters.",
            style="dim",
        )
    )
    return Group(*parts)


def _line(trial: Trial, temperature: float) -> list[str]:
    gain = trial.gain[temperature]
    share = "" if trial.weights is None else f"{_shares(trial, temperature)}  ({trial.mode})"
    return [
        trial.name if trial.weights is None else f"{trial.name} + tli",
        share,
        f"{trial.acceptance[temperature].value:.4f}",
        "" if trial.proposal is None else f"{gain.value:+.4f}",
        "" if trial.proposal is None else f"{gain.low:+.4f} … {gain.high:+.4f}",
        f"{trial.fit_s:.1f} s",
        f"{trial.n_bytes / 1e6:.2f} MB",
    ]


def _shares(trial: Trial, temperature: float) -> str:
    assert trial.weights is not None
    row = trial.weights[sorted(trial.acceptance).index(temperature)]
    return " / ".join(f"{share:g}" for share in row)
