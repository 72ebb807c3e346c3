"""A figure with its table and its provenance, and sections made of figures."""

from __future__ import annotations

import re
from dataclasses import dataclass

from outlex.report.drawing import Chart
from outlex.report.markup import Markup, join, tag
from outlex.report.source import Source
from outlex.report.table import Table

__all__ = ["WIDTHS", "Figure", "Section", "breakable"]

WIDTHS = {"wide": 820, "narrow": 350}  # pixels; `page.css` shows the one that fits


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing, or something of the page's own, above the same numbers as a table.

    Attributes:
        title: what it shows.
        content: a chart, or markup; None shows the table alone.
        table: None if `content` says all in words already.
        note: how to read it.
        rests_on: how many positions, prompts or runs.
    """

    title: str
    content: Chart | Markup | None
    table: Table | None
    note: str = ""
    rests_on: str = ""

    def html(self, source: Source) -> Markup:
        """The figure as one element."""
        content, table = self.content, self.table
        drawn: object = content
        if content is not None and not isinstance(content, Markup):
            widths = (tag("div", content.draw(width), class_=f"plot {name}") for name, width in WIDTHS.items())
            drawn = join(content.legend, *widths)
        shown = None
        if table is not None:
            shown = table.html()
            if content is not None:
                shown = tag("details", tag("summary", "The numbers as a table"), shown, class_="data")
        return tag(
            "figure",
            tag("figcaption", tag("h3", self.title), tag("p", self.note) if self.note else None),
            drawn,
            shown,
            _provenance(source, self.rests_on),
        )


@dataclass(frozen=True, kw_only=True)
class Section:
    """Everything about one file.

    Attributes:
        title: of it.
        lead: the question it answers, one sentence.
        findings: what the numbers say, one sentence each.
        figures: in order.
        source: the file.
    """

    title: str
    lead: str
    findings: tuple[str, ...]
    figures: tuple[Figure, ...]
    source: Source

    def html(self, anchor: str) -> Markup:
        """The section as one element of that id."""
        found = tag("ul", *(tag("li", text) for text in self.findings), class_="findings") if self.findings else None
        return tag(
            "section",
            tag("p", tag("code", *breakable(self.source.name)), class_="kicker"),
            tag("h2", self.title),
            tag("p", self.lead, class_="lead"),
            found,
            *(figure.html(self.source) for figure in self.figures),
            id=anchor,
        )


def _provenance(source: Source, rests_on: str) -> Markup:
    facts = dict(source.provenance())
    facts.setdefault("commit", "not recorded")
    in_short = [rests_on, *(f"{name} {facts[name]}" for name in ("commit", "threads") if name in facts)]
    items = []
    for name, value in facts.items():
        items += [tag("dt", name), tag("dd", tag("code", value) if name in ("command", "file") else value)]
    return tag(
        "details",
        tag("summary", tag("span", "Provenance"), " ", " · ".join(filter(None, in_short))),
        tag("dl", *items),
        class_="provenance",
    )


def breakable(name: str) -> list[object]:
    """A file's name that lines may be broken in, behind slashes, hyphens and underscores."""
    parts: list[object] = []
    for piece in re.split(r"(?<=[/_-])", name):
        parts += [piece, tag("wbr")]
    return parts[:-1]
