"""Rankings of tokens: what each keeps of held-out text and of acceptance, at every share of the rows."""

from __future__ import annotations

from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.line_chart import Curve, LineChart
from outlex.report.sections.domains import domain_figure
from outlex.report.source import Source
from outlex.report.table import table_of_rows
from outlex.report.values import Value, count, estimate_of, number

__all__ = ["coverage", "coverage_of", "ranking_acceptance"]


def coverage(source: Source) -> Section:
    """Rankings compared by the held-out tokens they keep, at each share of the rows and in each domain."""
    rows = source.body["rows"]
    n = sum(number(value) for value in source.body["n_held_out"].values())
    return Section(
        title="Coverage of rankings",
        lead="How many tokens of held-out text does each ranking keep?",
        findings=(),
        figures=(
            _by_domain(
                rows,
                "coverage",
                title="Held-out tokens that are kept",
                x_name="coverage",
                rests_on=f"{count(n)} tokens",
            ),
            *_ranking_gains(source.body["gains"], x_name="coverage", rests_on=f"{count(n)} tokens"),
        ),
        source=source,
    )


def ranking_acceptance(source: Source) -> Section:
    """α of TLI against the share of rows that are kept, for each ranking; domains."""
    rows = source.body["rows"]
    rests_on = (
        f"{count(number(source.body['n_positions']))} positions of {count(number(source.body['n_prompts']))} prompts"
    )
    whole = [row for row in rows if row["domain"] is None]
    pruned = [row for row in whole if row["ranking"] != "untrimmed"]
    shares = tuple(sorted({number(row["share"]) for row in pruned}))
    untrimmed = [estimate_of(row["alpha"]) for row in whole if row["ranking"] == "untrimmed"]
    curves = [
        Curve(name="untrimmed head", points=tuple((share, Value(value=value.value)) for share in shares))
        for value in untrimmed
        if value is not None
    ]
    curves += [
        Curve(
            name=name,
            points=tuple(
                (number(row["share"]), value)
                for row in sorted(pruned, key=lambda row: number(row["share"]))
                if row["ranking"] == name and (value := estimate_of(row["alpha"])) is not None
            ),
        )
        for name in dict.fromkeys(str(row["ranking"]) for row in pruned)
    ]
    figure = Figure(
        title="Acceptance against the share of rows that are kept",
        content=LineChart(
            label="Acceptance over the share of the rows that are kept, for each ranking, with 95 % intervals.",
            curves=tuple(curves),
            x_name="share of the rows",
            y_name="α",
            x_log=True,
            x_ticks=shares,
        ),
        table=table_of_rows("Acceptance", ("ranking", "share", "alpha", "coverage"), whole),
        rests_on=rests_on,
    )
    own = [row for row in rows if row["domain"] is not None and row["ranking"] != "untrimmed"]
    return Section(
        title="Acceptance of rankings",
        lead=f"Which ranking keeps most acceptance, with TLI at T = {number(source.body['temperature']):g}?"
        f" {source.body['drafter']} drafts for {source.body['target']}.",
        findings=(),
        figures=(
            figure,
            *(
                [_by_domain(own, "alpha", title="Acceptance in each domain", x_name="α", rests_on=rests_on)]
                if own
                else []
            ),
            *_ranking_gains(source.body["gains"], x_name="α", rests_on=rests_on),
        ),
        source=source,
    )


def coverage_of(row: dict[str, Any]) -> Value | None:
    """Coverage with its interval."""
    return estimate_of([row["coverage"], row["low"], row["high"]])


def _by_domain(rows: list[dict[str, Any]], name: str, *, title: str, x_name: str, rests_on: str) -> Figure:
    """One group a share, one row a domain, one series a ranking."""
    rankings = list(dict.fromkeys(str(row["ranking"]) for row in rows))
    shares = sorted({number(row["share"]) for row in rows}, reverse=True)
    domains = list(dict.fromkeys(str(row["domain"]) for row in rows))
    found = {
        (number(row["share"]), str(row["domain"]), str(row["ranking"])): coverage_of(row)
        if "low" in row
        else estimate_of(row[name])
        for row in rows
    }
    return domain_figure(
        [(f"{s:.0%} of the rows", d, tuple(found.get((s, d, r)) for r in rankings)) for s in shares for d in domains],
        series=rankings,
        title=title,
        x_name=x_name,
        rests_on=rests_on,
    )


def _ranking_gains(gains: list[dict[str, Any]], *, x_name: str, rests_on: str) -> tuple[Figure, ...]:
    """Paired differences between the rankings, in all domains and in each."""
    if not gains:
        return ()
    return (
        domain_figure(
            [
                (
                    f"{number(gain['share']):.0%} of the rows, mixture over {gain.get('over', 'counts')}",
                    str(gain["domain"] or "all domains"),
                    (estimate_of(gain),),
                )
                for gain in sorted(gains, key=lambda gain: (str(gain.get("over")), -number(gain["share"])))
            ],
            series=("difference",),
            title="Difference between rankings",
            x_name=x_name,
            note="Paired, with 95 % intervals.",
            rests_on=rests_on,
            reference=(0.0, "0"),
        ),
    )
