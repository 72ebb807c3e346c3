"""The same quantity in every domain: a chart while it is small enough to be read, else a shaded table."""

from __future__ import annotations

from collections.abc import Sequence

from outlex.report.figure import Figure
from outlex.report.interval_chart import Group, IntervalChart, Row
from outlex.report.table import Table
from outlex.report.values import Value

__all__ = ["Place", "domain_figure"]

Place = tuple[str, str, tuple[Value | None, ...]]  # setting, domain, a value a series
_MOST_MARKS = 44  # of a chart; more make it taller than a screen


def domain_figure(
    places: Sequence[Place],
    *,
    series: Sequence[str],
    title: str,
    x_name: str,
    rests_on: str,
    note: str = "",
    reference: tuple[float, str] | None = None,
) -> Figure:
    """A figure of values by setting and domain.

    Args:
        places: in the order they are shown; those of one setting one after the other.
        series: what the values of a place are.
        title, note, rests_on: of the figure.
        x_name: what is measured.
        reference: a value to mark, with its name.
    """
    table = Table(
        name=f"{title}: {x_name}",
        columns=("setting", "domain", *series),
        rows=tuple((setting, domain, *values) for setting, domain, values in places),
        shaded=True,
    )
    if len(places) * len(series) > _MOST_MARKS:
        return Figure(title=title, content=None, table=table, note=note, rests_on=rests_on)
    settings = dict.fromkeys(setting for setting, _, _ in places)
    chart = IntervalChart(
        label=f"{title}: {x_name}, with 95 % intervals.",
        groups=tuple(
            Group(
                name=of,
                rows=tuple(Row(name=domain, values=values) for setting, domain, values in places if setting == of),
            )
            for of in settings
        ),
        series=tuple(series),
        x_name=x_name,
        reference=reference,
    )
    return Figure(title=title, content=chart, table=table, note=note, rests_on=rests_on)
