"""Draft vocabularies: what was counted, what a trim kept, and what a fit found."""

from __future__ import annotations

from outlex.report.figure import Figure, Section
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.line_chart import Curve, LineChart
from outlex.report.sections.rankings import coverage_of
from outlex.report.source import Source
from outlex.report.table import Table, table_of_rows
from outlex.report.values import Value, count, estimate_of, number

__all__ = ["counts", "fit", "trim"]


def counts(source: Source) -> Section:
    """What `outlex count --json` printed."""
    body, domains = source.body, source.body["domains"]
    return Section(
        title=f"Token counts of {body['tokenizer']}",
        lead=f"{count(number(body['n_tokens']))} tokens in {count(number(body['n_documents']))} documents;"
        f" {count(number(body['n_different']))} of {count(number(body['n_entries']))} tokens were seen.",
        findings=(),
        figures=(
            Figure(
                title="Tokens of each domain",
                content=IntervalChart(
                    label="Number of tokens that were counted in each domain.",
                    groups=(
                        Group(
                            name="",
                            rows=tuple(
                                Row(name=name, values=(Value(value=number(one["n_tokens"])),))
                                for name, one in domains.items()
                            ),
                        ),
                    ),
                    series=("tokens",),
                    x_name="tokens",
                    bars=True,
                ),
                table=Table(
                    name="Domains",
                    columns=("domain", "tokens", "different", "documents", "weight"),
                    rows=tuple(
                        (name, *(number(one[k]) for k in ("n_tokens", "n_different", "n_documents", "weight")))
                        for name, one in domains.items()
                    ),
                ),
                rests_on=f"{count(number(body['n_tokens']))} tokens",
            ),
        ),
        source=source,
    )


def trim(source: Source) -> Section:
    """What `outlex trim --json` printed."""
    body = source.body
    n, full = number(body["n_draft"]), number(body["n_full"])
    figures = []
    for name, rows in (("what it was chosen by", body["domains"]), ("other text", body["reported_domains"])):
        if rows:
            figures.append(
                Figure(
                    title=f"Coverage of {name}",
                    content=IntervalChart(
                        label="Share of the tokens of each domain that are kept, with 95 % intervals.",
                        groups=(
                            Group(
                                name="",
                                rows=tuple(Row(name=str(row["domain"]), values=(coverage_of(row),)) for row in rows),
                            ),
                        ),
                        series=("coverage",),
                        x_name="coverage",
                    ),
                    table=table_of_rows("Coverage", ("domain", "n_tokens", "coverage", "low", "high"), rows),
                    rests_on=f"{count(sum(number(row['n_tokens']) for row in rows))} tokens",
                )
            )
    front = (body["size_search"] or {}).get("pareto")
    if front and all("coverage" in point and "reduction" in point for point in front):
        points = sorted(((number(p["size"]), Value(value=number(p["coverage"]))) for p in front), key=lambda p: p[0])
        saved = sorted(((number(p["size"]), Value(value=number(p["reduction"]))) for p in front), key=lambda p: p[0])
        figures.append(
            Figure(
                title="What each size keeps and saves",
                content=LineChart(
                    label="Coverage and reduction of cost over the number of rows that are kept.",
                    curves=(
                        Curve(name="coverage", points=tuple(points)),
                        Curve(name="share of the cost that is saved", points=tuple(saved)),
                    ),
                    x_name="rows",
                    y_name="share",
                    x_log=True,
                ),
                table=table_of_rows("Sizes that nothing beats", ("size", "coverage", "reduction"), front),
                rests_on=f"{count(n)} rows were chosen",
            )
        )
    if body["dropped"]:
        figures.append(
            Figure(
                title="Dropped tokens that matter most",
                content=None,
                table=table_of_rows("Dropped tokens", ("text", "id", "share"), body["dropped"]),
                rests_on=f"tokens of {body['dropped_by']}",
            )
        )
    return Section(
        title=f"Trimmed head of {body['base']}",
        lead=f"{count(n)} of {count(full)} rows are kept; {count(number(body['n_must_keep']['all']))} of them must be.",
        findings=() if body["coverage"] is None else (f"Coverage is {number(body['coverage']):.4f} of the counts.",),
        figures=tuple(figures),
        source=source,
    )


def fit(source: Source) -> Section:
    """What `outlex fit --json` printed: all trials, and the choice."""
    body = source.body
    rows = [
        (
            t,
            f"{trial['name']} + tli" if trial["weights"] is not None else str(trial["name"]),
            estimate_of(trial["acceptance"][t]),
            estimate_of(gain),
        )
        for trial in body["trials"]
        for t, gain in trial["gain"].items()
    ]
    prompts = body["prompts"]
    rests_on = f"{count(number(prompts['held_out']))} held-out prompts"
    return Section(
        title="Fitted proposals",
        lead=f"Chosen: {body['chosen']}. {body['reason']}",
        findings=(),
        figures=(
            Figure(
                title="Gain in α over TLI",
                note="On prompts that nothing was fitted to or chosen by; paired, 95 % intervals.",
                content=IntervalChart(
                    label="Difference in acceptance to TLI for each proposal, with 95 % intervals.",
                    groups=tuple(
                        Group(
                            name=f"T = {t}",
                            rows=tuple(
                                Row(name=name, values=(gain,), strong=name == body["chosen"])
                                for of, name, _, gain in rows
                                if of == t and name != "tli"
                            ),
                        )
                        for t in dict.fromkeys(t for t, *_ in rows)
                    ),
                    series=("gain",),
                    x_name="difference in α",
                    reference=(0.0, "TLI"),
                    limits=(-0.05, 1.0),
                ),
                table=Table(name="Trials", columns=("T", "proposal", "α", "gain over TLI"), rows=tuple(rows)),
                rests_on=rests_on,
            ),
        ),
        source=source,
    )
