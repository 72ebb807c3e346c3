"""Experiments that say why: how cost grows, what is gained and lost, and what a cascade would cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.line_chart import Curve, LineChart
from outlex.report.sections.experiment import Rows, experiment_section, held_out, rows_of, size_name
from outlex.report.source import Source
from outlex.report.table import Table, table_of_rows
from outlex.report.values import Value, estimate_of, number, optional

__all__ = ["cascade", "decomposition", "scaling"]


def scaling(source: Source) -> Section:
    """Seconds of a draft step and quality against N."""
    timed = [row for row in rows_of(source) if row.get("part") == "step times"]
    rows = [row for row in rows_of(source) if row.get("part", "quality") == "quality"]
    names = list(dict.fromkeys(str(row["sampler"]) for row in rows))
    steps = _steps(
        rows, title="Time of a draft step, the pair cut down to N tokens", columns=("N", "T_Ω", "sampler", "step_s")
    )
    growing = [
        _steps(
            timed,
            title="Time of a draft step as the target's vocabulary grows and the draft head does not",
            columns=("N", "sampler", "step_s", "of head"),
        )
        for _ in timed[:1]
    ]
    temperatures = list(dict.fromkeys(number(row["T_Ω"]) for row in rows))
    quality = [
        _curve([row for row in rows if number(row["T_Ω"]) == t], name, "alpha", label=f"{name}, T_Ω {t:g}")
        for name in names
        for t in temperatures
    ]
    tli = _curve(rows, names[0], "tli", label="TLI")
    alphas = Figure(
        title="Acceptance of both against TLI",
        content=LineChart(
            label="Acceptance over the size of the vocabulary for exact and first-order RDK, and TLI.",
            curves=(tli, *quality)[:8],
            x_name="N, tokens",
            y_name="α",
            x_log=True,
            y_zero=True,
            x_ticks=tuple(sorted({number(row["N"]) for row in rows})),
        ),
        table=table_of_rows("Acceptance", ("N", "T_Ω", "sampler", "alpha", "tli", "distance"), rows),
        rests_on=held_out(source),
    )
    return experiment_section(source, "Scaling", (*growing, steps, alphas))


def decomposition(source: Source) -> Section:
    """Gain on cold tokens against bonus lost, at every range of the target's mass outside."""
    rows = rows_of(source)
    moved = [row for row in rows if number(row["moved"]) > 0 or number(row["bonus lost"][0]) != 0]
    names = dict.fromkeys((size_name(row), str(row["positions"])) for row in moved)
    groups = tuple(
        Group(
            name=f"{size}, {positions}",
            rows=tuple(
                Row(
                    name=str(row["sampler"]),
                    values=(_negative(estimate_of(row["bonus lost"])), estimate_of(row["gain on cold"])),
                )
                for row in moved
                if (size_name(row), str(row["positions"])) == (size, positions)
            ),
        )
        for size, positions in names
    )
    figure = Figure(
        title="What is gained on cold tokens, and what is lost on hot ones",
        note="Their sum is the difference in α to TLI. Ranges are of the target's mass outside of the vocabulary."
        f" {len(rows) - len(moved)} samplers that move nothing are in the table alone.",
        content=IntervalChart(
            label="Gain on cold tokens and renormalisation bonus lost for each sampler, with 95 % intervals.",
            groups=groups,
            series=("bonus lost", "gain on cold"),
            x_name="contribution to α",
            bars=True,
            reference=(0.0, "TLI"),
        ),
        table=table_of_rows(
            "Gain and loss",
            ("n_draft", "positions", "n", "sampler", "gain on cold", "bonus lost", "gain", "share gaining", "moved"),
            rows,
        ),
        rests_on=held_out(source),
    )
    return experiment_section(source, "Why a sampler wins or loses", (figure,))


def cascade(source: Source) -> Section:
    """Memory-bound speed-up with one stage and with two."""
    rows = rows_of(source)
    kinds = ("cascade", "whole", "trimmed")
    figure = Figure(
        title="Memory-bound speed-up with a cascade, the whole drafter, or the trimmed one",
        note="τ over the bytes of weights that are read for it, as multiples of the target alone.",
        content=IntervalChart(
            label="Memory-bound speed-up of each arrangement at each draft length.",
            groups=tuple(
                Group(
                    name=size,
                    rows=tuple(
                        Row(
                            name=f"γ = {row['γ']}",
                            values=tuple(Value(value=number(row[f"mbsu {kind}"])) for kind in kinds),
                        )
                        for row in rows
                        if size_name(row) == size
                    ),
                )
                for size in dict.fromkeys(map(size_name, rows))
            ),
            series=("cascade", "whole head", "trimmed head"),
            x_name="× the target alone, in bytes",
            reference=(1.0, "1 ×"),
        ),
        table=Table(
            name="Speed-up of a cascade",
            columns=("rows", "γ", "inner γ", *kinds),
            rows=tuple(
                (size_name(row), row["γ"], row["inner γ"], *(number(row[f"mbsu {kind}"]) for kind in kinds))
                for row in rows
            ),
        ),
        rests_on=held_out(source),
    )
    return experiment_section(source, "Cascades", (figure,))


def _steps(rows: Rows, *, title: str, columns: tuple[str, ...]) -> Figure:
    """Seconds over N on logarithmic axes, with slopes."""
    seconds = [_curve(rows, name, "step_s", median=True) for name in dict.fromkeys(str(row["sampler"]) for row in rows)]
    return Figure(
        title=title,
        note="Both axes are logarithmic: a straight line of slope s grows as N to the power s. Slopes are least"
        " squares, from 16,384 tokens on where there are two such sizes.",
        content=LineChart(
            label="Seconds of one draft step over the size of the vocabulary, on logarithmic axes.",
            curves=tuple(Curve(name=f"{curve.name}, {_slope(curve)}", points=curve.points) for curve in seconds),
            x_name="N, tokens",
            y_name="seconds a draft step",
            x_log=True,
            y_log=True,
            x_ticks=tuple(sorted({number(row["N"]) for row in rows})),
        ),
        table=table_of_rows("Time of a draft step", columns, rows),
        rests_on="medians of repeated steps",
    )


def _curve(rows: Rows, sampler: str, name: str, *, label: str | None = None, median: bool = False) -> Curve:
    """One value a width: the only one, or the median of those at several temperatures."""
    at: dict[float, list[float]] = {}
    for row in rows:
        value = optional(row[name])
        if row["sampler"] == sampler and value is not None:
            at.setdefault(number(row["N"]), []).append(value)
    points = [(n, Value(value=float(np.median(values)) if median else values[0])) for n, values in sorted(at.items())]
    return Curve(name=label or sampler, points=tuple(points))


def _slope(curve: Curve) -> str:
    """Of the logarithms; where steps are short, what does not grow hides what does."""
    wide = [(x, value.value) for x, value in curve.points if x >= 1 << 14]
    points = wide if len(wide) > 1 else [(x, value.value) for x, value in curve.points]
    if len(points) < 2:
        return "one size"
    x, y = np.log(np.array(points)).T
    return f"slope {np.polyfit(x, y, 1)[0]:.2f}"


def _negative(value: Any) -> Value | None:
    if value is None:
        return None
    ends = [None if end is None else -end for end in (value.high, value.low)]
    return Value(value=-value.value, low=ends[0], high=ends[1])
