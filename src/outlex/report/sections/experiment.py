"""What all experiments share: question, notes, what they rest on, and all rows as a table."""

from __future__ import annotations

from typing import Any

from outlex.report.figure import Figure, Section
from outlex.report.source import Source
from outlex.report.table import table_of_rows
from outlex.report.values import count, number

__all__ = ["experiment", "experiment_section", "held_out", "recorded", "rows_of", "size_name"]

Rows = list[dict[str, Any]]
_MOST_ROWS = 250  # of a table; a page has to stay small enough to send


def experiment(source: Source) -> Section:
    """An experiment that no figure is made for."""
    return experiment_section(source, str(source.body["name"]).capitalize(), ())


def experiment_section(source: Source, title: str, figures: tuple[Figure, ...]) -> Section:
    """The section of an experiment: its figures, and a table of everything.

    Args:
        source: the file.
        title: of the section.
        figures: before the table.
    """
    body = source.body
    config, rows = body["config"], rows_of(source)
    # the columns of the result first; then what only the file has, such as domains
    columns = list(dict.fromkeys([*body["columns"], *(name for row in rows for name in row)]))
    shown = sorted(rows, key=lambda row: row.get("domain", "all") != "all")[:_MOST_ROWS]
    whole = Figure(
        title="Everything that was recorded"
        if len(shown) == len(rows)
        else f"The first of {len(rows):,} rows recorded",
        note=""
        if len(shown) == len(rows)
        else f"{len(shown)} rows, all domains together first; the file has the rest.",
        content=None,
        table=table_of_rows(f"{body['name']}: all rows", [name for name in columns if name != "weights"], shown),
        rests_on=held_out(source),
    )
    return Section(
        title=title,
        lead=f"{body['question']} {config['drafter']} drafts for {config['target']},"
        f" T = {number(config['temperature']):g}.",
        findings=tuple(map(str, body["notes"])),
        figures=(*figures, whole),
        source=source,
    )


def recorded(source: Source) -> Section:
    """Rows that a script recorded with its environment, and that no figure is made for."""
    rows = rows_of(source)
    columns = dict.fromkeys(name for row in rows for name in row)
    shown = Figure(
        title="What was recorded",
        content=None,
        table=table_of_rows(source.name, columns, rows[:_MOST_ROWS]),
        note="" if len(rows) <= _MOST_ROWS else f"The first {_MOST_ROWS} of {len(rows):,} rows; the file has the rest.",
        rests_on=f"{len(rows):,} rows",
    )
    title = source.path.stem.replace("_", " ").replace("-", " ").capitalize()
    return Section(title=title, lead="Rows as a script recorded them.", findings=(), figures=(shown,), source=source)


def rows_of(source: Source) -> Rows:
    """The rows; at least one."""
    rows = source.body["rows"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("there are no rows")
    return rows


def held_out(source: Source) -> str:
    """What the numbers rest on."""
    part = source.body["config"]["prompts"]["held_out"]
    return f"{count(number(part['positions']))} held-out positions of {count(number(part['prompts']))} prompts"


def size_name(row: dict[str, Any]) -> str:
    """Rows of the draft head, and the share that was pruned where the row says so."""
    name = f"{count(number(row['n_draft']))} rows"
    return f"{name} ({number(row['pruned']):.1%} pruned)" if "pruned" in row else name
