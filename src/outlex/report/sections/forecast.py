"""Forecasts: acceptance, tokens a pass and speed of draft heads before they are deployed, and whether they pay."""

from __future__ import annotations

from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.sections.domains import domain_figure
from outlex.report.source import Source
from outlex.report.table import Table, table_of_rows
from outlex.report.values import Value, count, estimate_of, number

__all__ = ["forecast", "forecast_check"]

Cells = list[dict[str, Any]]


def forecast(source: Source) -> Section:
    """What `outlex forecast --json` printed."""
    body = source.body
    cells: Cells = body["cells"]
    whole = [cell for cell in cells if cell["domain"] is None]
    rests_on = f"{count(number(whole[0]['n_positions']))} positions of {count(number(whole[0]['n_prompts']))} prompts"
    measured = any(cell["tokens_per_s"] is not None for cell in whole)
    figures = (
        _figure(
            whole,
            {"α": "acceptance_rate", "ceiling 1 − oov mass": "ceiling"},
            title="Acceptance",
            x_name="α",
            rests_on=rests_on,
        ),
        _figure(whole, {"τ": "block_efficiency"}, title="Tokens a target pass", x_name="τ", rests_on=rests_on),
        _figure(
            whole,
            {"speed": "over_untrimmed"},
            title="Speed against the untrimmed head",
            x_name="× untrimmed, in measured seconds" if measured else "× untrimmed, in bytes of weights",
            rests_on=rests_on,
            reference=(1.0, "untrimmed"),
        ),
        *_domains(cells, rests_on),
        Figure(
            title="Does it pay?",
            content=None,
            table=table_of_rows(
                "Verdicts",
                ("candidate", "temperature", "draft_len", "decision", "kept", "needed", "in_seconds"),
                body["verdicts"],
            ),
            rests_on=rests_on,
        ),
    )
    return Section(
        title="Forecast",
        lead="What would each draft head do, by the traces of this pair?"
        f" {body['drafter']} drafts for {body['target']}, proposal {body['proposal']}.",
        findings=(*(str(verdict["sentence"]) for verdict in body["verdicts"]), *map(str, body["notes"])),
        figures=figures,
        source=source,
    )


def forecast_check(source: Source) -> Section:
    """Forecasts beside what was measured."""
    acceptance, speed = source.body["acceptance"], source.body["speed"]
    return Section(
        title="Forecast against measurement",
        lead="How near do forecasts come to what a benchmark measures afterwards?",
        findings=(),
        figures=(
            _pairs(
                acceptance,
                title="Acceptance, forecast and measured",
                x_name="α",
                rests_on=f"{count(max(number(row['n_measured']) for row in acceptance))} measured drafts at most",
            ),
            _pairs(
                speed,
                title="Speed, forecast and measured",
                x_name="tokens a second",
                rests_on=f"{count(max(number(row['n_prompts']) for row in speed))} prompts at most",
            ),
        ),
        source=source,
    )


def _setting(cell: dict[str, Any]) -> str:
    return f"T = {number(cell['temperature']):g}, γ = {cell['draft_len']}"


def _figure(
    cells: Cells,
    parts: dict[str, str],
    *,
    title: str,
    x_name: str,
    rests_on: str,
    reference: tuple[float, str] | None = None,
) -> Figure:
    def values(cell: dict[str, Any]) -> tuple[Value | None, ...]:
        return tuple(estimate_of(cell[name]) for name in parts.values())

    return Figure(
        title=title,
        content=IntervalChart(
            label=f"{title} of each candidate, forecast with 95 % intervals.",
            groups=tuple(
                Group(
                    name=name,
                    rows=tuple(
                        Row(name=str(cell["candidate"]), values=values(cell))
                        for cell in cells
                        if _setting(cell) == name
                    ),
                )
                for name in dict.fromkeys(map(_setting, cells))
            ),
            series=tuple(parts),
            x_name=x_name,
            reference=reference,
        ),
        table=Table(
            name=title,
            columns=("setting", "candidate", "rows", *parts),
            rows=tuple((_setting(cell), cell["candidate"], number(cell["n_draft"]), *values(cell)) for cell in cells),
        ),
        rests_on=rests_on,
    )


def _domains(cells: Cells, rests_on: str) -> tuple[Figure, ...]:
    own = [cell for cell in cells if cell["domain"] is not None]
    if not own:
        return ()
    candidates = list(dict.fromkeys(str(cell["candidate"]) for cell in own))
    places = dict.fromkeys((_setting(cell), str(cell["domain"])) for cell in own)
    found = {(_setting(c), str(c["domain"]), str(c["candidate"])): estimate_of(c["acceptance_rate"]) for c in own}
    return (
        domain_figure(
            [(*place, tuple(found.get((*place, name)) for name in candidates)) for place in places],
            series=candidates,
            title="Acceptance in each domain",
            x_name="α",
            rests_on=rests_on,
        ),
    )


def _pairs(rows: Cells, *, title: str, x_name: str, rests_on: str) -> Figure:
    def values(row: dict[str, Any]) -> tuple[Value | None, ...]:
        return estimate_of(row["forecast"]), estimate_of(row["measured"])

    return Figure(
        title=title,
        content=IntervalChart(
            label=f"{title} of each method, by temperature.",
            groups=tuple(
                Group(
                    name=f"T = {t:g}",
                    rows=tuple(
                        Row(name=str(row["method"]), values=values(row))
                        for row in rows
                        if number(row["temperature"]) == t
                    ),
                )
                for t in dict.fromkeys(number(row["temperature"]) for row in rows)
            ),
            series=("forecast", "measured"),
            x_name=x_name,
        ),
        table=Table(
            name=title,
            columns=("T", "method", "forecast", "measured"),
            rows=tuple((number(row["temperature"]), row["method"], *values(row)) for row in rows),
        ),
        rests_on=rests_on,
    )
