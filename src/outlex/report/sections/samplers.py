"""Experiments that compare samplers with TLI: pruning, priors, skewed settings, greedy drafting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outlex.report.drawing import N_STYLES
from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.line_chart import Curve, LineChart
from outlex.report.sections.domains import domain_figure
from outlex.report.sections.experiment import Rows, experiment_section, held_out, rows_of, size_name
from outlex.report.source import Source
from outlex.report.table import Table
from outlex.report.values import Value, estimate_of, number

__all__ = ["greedy", "priors", "pruning", "skewed"]

_CLIP = 0.05  # gains below −0.05 are drawn at the edge: samplers that fail would hide the others


def pruning(source: Source) -> Section:
    """α against the rows that are kept; gains over TLI; domains."""
    rows = rows_of(source)
    whole = [row for row in rows if row["domain"] == "all"]
    figures = (
        _acceptance(source, whole),
        _gains(source, whole, size_name),
        *_domains(source, rows),
    )
    return experiment_section(source, "Acceptance against pruning", figures)


def priors(source: Source) -> Section:
    """Gains over TLI of each prior; domains."""
    rows = rows_of(source)
    whole = [row for row in rows if row["domain"] == "all"]
    return experiment_section(source, "Priors", (_gains(source, whole, size_name), *_domains(source, rows)))


def skewed(source: Source) -> Section:
    """Gains over TLI in each setting."""
    whole = [row for row in rows_of(source) if row.get("domain", "all") == "all"]
    return experiment_section(
        source, "Skewed settings", (_gains(source, whole, lambda row: f"{row['setting']}, {size_name(row)}"),)
    )


def greedy(source: Source) -> Section:
    """Gains over TLI where the draft is an arg-max."""
    rows = rows_of(source)
    groups = tuple(
        Group(
            name=name,
            rows=tuple(
                Row(
                    name=str(row["sampler"]),
                    values=(estimate_of(row["gain"]), estimate_of(row["greedy gain"])),
                )
                for row in rows
                if size_name(row) == name
            ),
        )
        for name in dict.fromkeys(map(size_name, rows))
    )
    gain = Figure(
        title="Gain in α over TLI, drafts being the arg-max of q̃",
        content=_gain_chart(groups, ("target sampled", "target greedy")),
        table=Table(
            name="Gain in acceptance over TLI",
            columns=("rows", "sampler", "arg-max moved", "target sampled", "target greedy"),
            rows=tuple(
                (
                    size_name(row),
                    row["sampler"],
                    number(row["arg-max moved"]),
                    estimate_of(row["gain"]),
                    estimate_of(row["greedy gain"]),
                )
                for row in rows
            ),
        ),
        rests_on=held_out(source),
    )
    return experiment_section(source, "Greedy drafting", (gain,))


def _gain_chart(groups: tuple[Group, ...], series: tuple[str, ...]) -> IntervalChart:
    return IntervalChart(
        label="Difference in acceptance to TLI for each sampler, with 95 % intervals.",
        groups=groups,
        series=series,
        x_name="difference in α",
        reference=(0.0, "TLI"),
        limits=(-_CLIP, 1.0),
    )


def _acceptance(source: Source, rows: Rows) -> Figure:
    """TLI with its interval, the untrimmed head and the ceiling, and the best sampler of each family."""
    of_tli = [row for row in rows if row["sampler"] == "tli"]
    curves = [
        Curve(name="untrimmed head", points=_points(of_tli, "untrimmed")),
        Curve(name="ceiling 1 − oov mass", points=_points(of_tli, "ceiling")),
        Curve(name="TLI, 95 % interval", points=_points(of_tli, "alpha"), band=True),
    ]
    chosen = [row for row in rows if row["chosen"]]
    if any(row["sampler"] != "tli" for row in chosen):
        curves.append(Curve(name="chosen by calibration", points=_without_ends(chosen)))
    alone = [row for row in rows if row["weights"] is None and row["sampler"] != "tli"]
    for family in list(dict.fromkeys(map(_family, alone)))[: N_STYLES - len(curves)]:
        own = [row for row in alone if _family(row) == family]
        best = [
            max((row for row in own if row["n_draft"] == size), key=lambda row: number(row["alpha"][0]))
            for size in dict.fromkeys(row["n_draft"] for row in own)
        ]
        curves.append(Curve(name=f"{family} alone", points=_without_ends(best)))
    return Figure(
        title="Acceptance against the rows that are kept",
        note="Mean β over the whole vocabulary. Of each family of samplers the best that is not mixed with TLI is drawn"
        ", picked at each size with hindsight. What calibrated mixtures gain is in the next figure.",
        content=LineChart(
            label="Acceptance over the number of rows that are kept, for each family of samplers, the untrimmed head"
            " and the ceiling.",
            curves=tuple(curves),
            x_name="rows of the draft head",
            y_name="α",
            x_log=True,
            x_ticks=tuple(sorted({number(row["n_draft"]) for row in rows})),
        ),
        table=Table(
            name="Acceptance at each size",
            columns=("rows", *(curve.name for curve in curves)),
            rows=tuple(
                (size, *(dict(curve.points).get(size) for curve in curves))
                for size in sorted({x for curve in curves for x, _ in curve.points})
            ),
        ),
        rests_on=held_out(source),
    )


def _gains(source: Source, rows: Rows, group_of: Callable[[dict[str, Any]], str]) -> Figure:
    """Differences to TLI, paired."""
    others = [row for row in rows if row["sampler"] != "tli"]
    shown = [row for row in others if not _is_tli(row)] or others[:1]
    names = dict.fromkeys(map(group_of, shown))
    chosen = {group_of(row): str(row["sampler"]) for row in rows if row["chosen"]}
    groups = tuple(
        Group(
            name=f"{name} · chosen: {chosen.get(name, 'none')}",
            rows=tuple(
                Row(name=str(row["sampler"]), values=(estimate_of(row["gain"]),), strong=bool(row["chosen"]))
                for row in shown
                if group_of(row) == name
            ),
        )
        for name in names
    )
    return Figure(
        title="Gain in α over TLI",
        note="Paired differences on held-out prompts with 95 % intervals, prompts as clusters. Right of the line is"
        f" better than TLI. Losses beyond {_CLIP} are drawn as arrows at the edge."
        f" {len(others) - len(shown)} mixtures with λ = 0 are TLI itself; they are in the table alone.",
        content=_gain_chart(groups, ("gain",)),
        table=Table(
            name="Gain in acceptance over TLI",
            columns=("setting", "sampler", "chosen", "α", "gain over TLI"),
            rows=tuple(
                (
                    group_of(row),
                    row["sampler"],
                    bool(row["chosen"]),
                    estimate_of(row["alpha"]),
                    estimate_of(row["gain"]),
                )
                for row in rows
            ),
        ),
        rests_on=held_out(source),
    )


def _domains(source: Source, rows: Rows) -> tuple[Figure, ...]:
    """TLI and the choice in each domain."""
    names = [name for name in dict.fromkeys(row["domain"] for row in rows) if name != "all"]
    if not names:
        return ()
    sizes = dict.fromkeys(map(size_name, rows))
    found = {
        (size_name(row), row["domain"], which): row
        for row in rows
        for which in (("tli",) if row["sampler"] == "tli" else ()) + (("chosen",) if row["chosen"] else ())
    }
    series = {"TLI": ("tli", "alpha"), "chosen": ("chosen", "alpha"), "gain": ("chosen", "gain")}
    return (
        domain_figure(
            [
                (size, name, tuple(estimate_of(found[size, name, which][part]) for which, part in series.values()))
                for size in sizes
                for name in names
            ],
            series=tuple(series),
            title="Acceptance in each domain",
            x_name="α",
            note="TLI, the sampler that calibration chose, and the paired difference.",
            rests_on=held_out(source),
        ),
    )


def _points(rows: Rows, name: str) -> tuple[tuple[float, Value], ...]:
    found = [(number(row["n_draft"]), estimate_of(row[name])) for row in rows]
    return tuple(sorted(((x, value) for x, value in found if value is not None), key=lambda point: point[0]))


def _without_ends(rows: Rows) -> tuple[tuple[float, Value], ...]:
    return tuple((x, Value(value=value.value)) for x, value in _points(rows, "alpha"))


def _is_tli(row: dict[str, Any]) -> bool:
    """A mixture that calibration gave no share; rows of rare text did not always say their shares."""
    shares = row.get("weights")
    return shares is not None and not any(share for of_one in shares for share in of_one)


def _family(row: dict[str, Any]) -> str:
    return str(row["sampler"]).split(",")[0]
