"""Draft heads of different kinds: what they keep of acceptance, and what they cost."""

from __future__ import annotations

from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.line_chart import Curve, LineChart
from outlex.report.sections.domains import domain_figure
from outlex.report.source import Source
from outlex.report.table import Table, table_of_rows
from outlex.report.values import Value, count, estimate_of, number

__all__ = ["counting_speed", "head_acceptance", "head_times"]


def head_acceptance(source: Source) -> Section:
    """Share of the untrimmed head's acceptance that each head keeps."""
    rows = source.body["rows"]
    whole = [row for row in rows if row["domain"] is None]
    heads = list(dict.fromkeys(str(row["head"]) for row in whole))
    temperatures = dict.fromkeys(number(row["temperature"]) for row in whole)
    rests_on = f"{count(number(whole[0]['n_positions']))} positions of {count(number(whole[0]['n_prompts']))} prompts"
    kept = Figure(
        title="Acceptance that is kept",
        note="α of each head over α of the untrimmed one on the same positions, with 95 % intervals.",
        content=IntervalChart(
            label="Share of the untrimmed head's acceptance that each head keeps, by temperature.",
            groups=tuple(
                Group(
                    name=f"T = {t:g}",
                    rows=tuple(
                        Row(name=str(row["head"]), values=(estimate_of(row["kept"]),))
                        for row in whole
                        if number(row["temperature"]) == t and row["head"] != "untrimmed"
                    ),
                )
                for t in temperatures
            ),
            series=("kept",),
            x_name="share of α kept",
            reference=(1.0, "untrimmed"),
        ),
        table=table_of_rows("Acceptance that is kept", ("temperature", "head", "alpha", "kept", "head_bytes"), whole),
        rests_on=rests_on,
    )
    trade = Figure(
        title="What is kept against what is read",
        note="One mark a head. Left is cheaper, up is better.",
        content=LineChart(
            label="Share of acceptance kept over the share of the head's bytes that a step reads, one mark a head.",
            curves=tuple(
                Curve(
                    name=f"T = {t:g}",
                    joined=False,
                    points=tuple(
                        (number(row["head_bytes"]), value)
                        for row in sorted(whole, key=lambda row: number(row["head_bytes"]))
                        if number(row["temperature"]) == t and (value := estimate_of(row["kept"])) is not None
                    ),
                )
                for t in temperatures
            ),
            x_name="share of the head's bytes",
            y_name="share of α kept",
            x_log=True,
        ),
        table=table_of_rows("Kept and read", ("temperature", "head", "head_bytes", "kept"), whole),
        rests_on=rests_on,
    )
    return Section(
        title="Draft heads",
        lead="How much of the untrimmed head's acceptance does each head keep, and how much of it does it read?"
        f" {source.body['drafter']} drafts for {source.body['target']}.",
        findings=(),
        figures=(kept, trade, *_domains(rows, [head for head in heads if head != "untrimmed"])),
        source=source,
    )


def head_times(source: Source) -> Section:
    """Time of a draft head's step, beside its share of bytes."""
    rows = source.body["rows"]
    parts = {"measured time": "of_full_time", "bytes": "of_full_bytes"}
    repeats = count(number(source.body["repeats"]))
    return Section(
        title="Time of draft heads",
        lead="How long does a head take, as a share of the untrimmed one, and does it follow the bytes it reads?",
        findings=(),
        figures=(
            Figure(
                title="Share of the untrimmed head's time and bytes",
                content=IntervalChart(
                    label="Time and bytes of each head as a share of the untrimmed head's.",
                    groups=(
                        Group(
                            name="",
                            rows=tuple(
                                Row(
                                    name=str(row["head"]),
                                    values=tuple(Value(value=number(row[name])) for name in parts.values()),
                                )
                                for row in rows
                            ),
                        ),
                    ),
                    series=tuple(parts),
                    x_name="share of the untrimmed head",
                    bars=True,
                ),
                table=table_of_rows("Time of heads", ("head", "milliseconds", *parts.values()), rows),
                rests_on=f"medians of {repeats} repeats",
            ),
        ),
        source=source,
    )


def counting_speed(source: Source) -> Section:
    """Rounds of `outlex count` beside other ways to count."""
    speed = source.body["speed"]
    rounds = {name: sorted(number(one[name]) for one in speed["rounds"]) for name in speed["rounds"][0]}
    spread = {
        name: Value(value=values[len(values) // 2], low=values[0], high=values[-1]) for name, values in rounds.items()
    }
    return Section(
        title="Speed of counting",
        lead=f"How fast are the tokens of {source.body['tokenizer']} counted?",
        findings=(),
        figures=(
            Figure(
                title="Speed of counting",
                note="Median of the rounds; the whisker goes from the slowest round to the fastest.",
                content=IntervalChart(
                    label="Speed of each way to count.",
                    groups=(
                        Group(name="", rows=tuple(Row(name=name, values=(value,)) for name, value in spread.items())),
                    ),
                    series=("speed",),
                    x_name=str(speed["unit"]),
                    bars=True,
                ),
                table=Table(name="Speed of counting", columns=("way", "median"), rows=tuple(spread.items())),
                rests_on=f"{count(number(speed['n_bytes']))} bytes in {count(number(speed['n_documents']))} documents",
            ),
        ),
        source=source,
    )


def _domains(rows: list[dict[str, Any]], heads: list[str]) -> tuple[Figure, ...]:
    own = [row for row in rows if row["domain"] is not None]
    if not own:
        return ()
    places = dict.fromkeys((f"T = {number(row['temperature']):g}", str(row["domain"])) for row in own)
    found = {
        (f"T = {number(r['temperature']):g}", str(r["domain"]), str(r["head"])): estimate_of(r["kept"]) for r in own
    }
    return (
        domain_figure(
            [(*place, tuple(found.get((*place, head)) for head in heads)) for place in places],
            series=heads,
            title="Acceptance that is kept in each domain",
            x_name="share of α kept",
            rests_on=f"{count(sum(number(row['n_positions']) for row in own if row['head'] == heads[0]))} positions",
            reference=(1.0, "untrimmed"),
        ),
    )
