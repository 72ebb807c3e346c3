"""Tables of values: the text version of every figure, and what is no figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from outlex.report.markup import Markup, join, tag
from outlex.report.values import Value, aligned, estimate_of, short

__all__ = ["N_SHADES", "Table", "table_of_rows"]

N_SHADES = 6  # classes q0 to q5 of `page.css`


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of cells; a cell is text, a number, a `Value`, a truth value, or None.

    Attributes:
        name: what it holds, read out before it.
        columns: headings.
        rows: as long as `columns`.
        shaded: colour the `Value` cells from the lowest to the highest.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    shaded: bool = False

    def html(self) -> Markup:
        """In a box that scrolls by itself, so that the page never has to."""
        is_number = [
            any(isinstance(row[k], (int, float, Value)) and not isinstance(row[k], bool) for row in self.rows)
            for k in range(len(self.columns))
        ]
        head = tag(
            "tr",
            *(tag("th", name, scope="col", class_=_class(n)) for name, n in zip(self.columns, is_number, strict=True)),
        )
        body = [
            tag("tr", *(self._cell(cell, k, n) for k, (cell, n) in enumerate(zip(row, is_number, strict=True))))
            for row in self.rows
        ]
        caption = tag("caption", self.name)
        return tag(
            "div",
            tag("table", caption, tag("thead", head), tag("tbody", *body)),
            class_="scroll",
            role="region",
            tabindex="0",
            aria_label=self.name,
        )

    def _cell(self, cell: object, column: int, is_number: bool) -> Markup:
        shade = self._shade(cell) if self.shaded else None
        classes = [name for name in ("n" if is_number else None, shade) if name]
        if column == 0:
            return tag("th", _shown(cell), scope="row", class_=_class(is_number))
        return tag("td", _shown(cell), class_=" ".join(classes) or None)

    def _shade(self, cell: object) -> str | None:
        if not isinstance(cell, Value):
            return None
        low, high = self._range
        return f"q{min(N_SHADES - 1, int((cell.value - low) / (high - low) * N_SHADES))}" if high > low else "q0"

    @cached_property
    def _range(self) -> tuple[float, float]:
        values = [cell.value for row in self.rows for cell in row if isinstance(cell, Value)]
        return min(values), max(values)


def table_of_rows(name: str, columns: Iterable[str], rows: Iterable[dict[str, object]]) -> Table:
    """A table of JSON objects; intervals are lists of three numbers."""
    columns = tuple(columns)
    return Table(name=name, columns=columns, rows=tuple(tuple(_value(row.get(c)) for c in columns) for row in rows))


def _value(cell: object) -> object:
    if isinstance(cell, list) and len(cell) == 3 and all(isinstance(x, (int, float, type(None))) for x in cell):
        return estimate_of(cell)
    if isinstance(cell, dict) and {"value", "low", "high"} <= cell.keys():
        return estimate_of(cell)
    return cell


def _class(is_number: bool) -> str | None:
    return "n" if is_number else None


def _shown(cell: object) -> object:
    if isinstance(cell, Value) and cell.low is not None and cell.high is not None:
        return join(aligned(cell.value), tag("small", f"[{aligned(cell.low)}, {aligned(cell.high)}]"), between=" ")
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return short(float(cell)) if isinstance(cell, (int, float)) else str(cell)
