"""Values side by side, as dots or bars, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from outlex.report.drawing import N_STYLES, data_of, interval_bar, legend, line, marker, svg, text, vertical_grid
from outlex.report.markup import Markup, tag
from outlex.report.scale import Scale, covering
from outlex.report.values import Value

__all__ = ["Group", "IntervalChart", "Row"]

_NARROW = 480  # pixels; below, labels stand above their marks
_STEP = 15.0  # pixels between the marks of a row


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line.

    Attributes:
        name: in front of it.
        values: one a series; None where there is none.
        strong: set its name in bold.
    """

    name: str
    values: tuple[Value | None, ...]
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under a heading; "" has none."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
    """Rows of values over one axis.

    Attributes:
        label: what it shows, in a sentence.
        groups: of rows.
        series: names, one a value of each row.
        x_name: of the axis.
        bars: draw bars from 0 instead of dots.
        log: logarithmic axis.
        reference: a value to mark with a line, with its name.
        limits: the axis ends there at the latest; what lies beyond is drawn as an arrow at the edge, with its value.
    """

    label: str
    groups: tuple[Group, ...]
    series: tuple[str, ...]
    x_name: str
    bars: bool = False
    log: bool = False
    reference: tuple[float, str] | None = None
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        rows = [row for group in self.groups for row in group.rows]
        if not 1 <= len(self.series) <= N_STYLES or not any(value for row in rows for value in row.values):
            raise ValueError(f"{len(rows)} rows of {len(self.series)} series cannot be drawn")

    @property
    def legend(self) -> Markup | None:
        return legend(list(self.series)) if len(self.series) > 1 else None

    def draw(self, width: int) -> Markup:
        narrow = width < _NARROW
        names = [row.name for group in self.groups for row in group.rows]
        left = 12.0 if narrow else min(width * 0.42, 24 + 6.7 * max(map(len, names)))
        axis = self._axis(left, width - 58.0)
        row_height = 10 + _STEP * len(self.series) + (17 if narrow else 0)
        heights = [(26.0 if group.name else 4.0) + row_height * len(group.rows) for group in self.groups]
        top, bottom = 24.0, 24.0 + sum(heights)
        parts: list[Markup] = [vertical_grid(axis, top=top, bottom=bottom, n=max(3, width // 120))]
        if self.reference is not None and axis.low <= self.reference[0] <= axis.high:
            x = axis(self.reference[0])
            parts += [
                line(x, top - 4, x, bottom, "reference"),
                text(x, top - 9, self.reference[1], anchor="middle", class_="tick"),
            ]
        y = top
        for group, height in zip(self.groups, heights, strict=True):
            if group.name:
                parts.append(text(0, y + 17, group.name, class_="group"))
            start = y + height - row_height * len(group.rows)
            for k, row in enumerate(group.rows):
                parts.append(self._row(row, axis, start + k * row_height, narrow=narrow, group=group.name))
            y += height
        parts.append(text(axis.end, bottom + 34, self.x_name, anchor="end", class_="axis"))
        return svg(width, bottom + 40, self.label, *parts)

    def _axis(self, start: float, end: float) -> Scale:
        values = [value for group in self.groups for row in group.rows for value in row.values if value is not None]
        numbers = [
            x
            for value in values
            for x in (value.value, value.low, value.high)
            if x is not None and (x > 0 or not self.log)
        ]
        if self.reference is not None:
            numbers.append(self.reference[0])
        if self.limits is not None:
            numbers = [min(max(x, self.limits[0]), self.limits[1]) for x in numbers]
        return covering(numbers, start=start, end=end, log=self.log, zero=self.bars and not self.log)

    def _row(self, row: Row, axis: Scale, y: float, *, narrow: bool, group: str) -> Markup:
        name_y = y + 15 if narrow else y + 5 + _STEP * len(self.series) / 2 + 4
        shown = row.name if narrow or len(row.name) <= axis.start / 6.4 else f"{row.name[: int(axis.start / 6.4) - 1]}…"
        parts = [
            text(
                0 if narrow else axis.start - 10,
                name_y,
                shown,
                anchor=None if narrow else "end",
                class_="name strong" if row.strong else "name",
            )
        ]
        first = y + 5 + _STEP / 2 + (17 if narrow else 0)
        for k, value in enumerate(row.values):
            if value is not None:
                of = row.name if len(self.series) == 1 else f"{row.name}, {self.series[k]}"
                tip = f"{of}{', ' + group if group else ''}\n{self.x_name}: {value}"
                parts.append(tag("g", *self._mark(k, value, axis, first + k * _STEP), **data_of(value, tip)))
        return tag("g", *parts)

    def _mark(self, k: int, value: Value, axis: Scale, y: float) -> list[Markup]:
        x = min(max(axis(value.value), axis.start), axis.end)
        if abs(x - axis(value.value)) > 0.5:  # beyond the edge
            toward = -1 if value.value < axis.low else 1
            tip, back = x + toward * 2, x - toward * 6
            arrow = tag(
                "polygon",
                points=f"{tip:.1f},{y:.1f} {back:.1f},{y - 4:.1f} {back:.1f},{y + 4:.1f}",
                class_=f"mark c{k}",
            )
            words = text(
                x - toward * 11,
                y + 4,
                str(Value(value=value.value)),
                anchor="end" if toward > 0 else None,
                class_="number",
            )
            return [arrow, words]
        parts = []
        ends = [
            min(max(axis(e), axis.start), axis.end)
            for e in (value.low, value.high)
            if e is not None and (e > 0 or not self.log)
        ]
        zero = axis.start if self.log or not self.bars else axis(0.0)
        if self.bars:
            parts.append(
                tag(
                    "rect",
                    x=min(zero, x),
                    y=y - 5,
                    width=max(abs(x - zero), 0.5),
                    height="10",
                    class_=f"bar c{k % N_STYLES}",
                )
            )
        if len(ends) == 2:
            parts.append(interval_bar(k, (ends[0], y), (ends[1], y)))
        if not self.bars:
            parts.append(marker(k, x, y, size=3.8))
        parts.append(
            text(
                max([x, *ends, *([zero] if self.bars else [])]) + 8,
                y + 4,
                str(Value(value=value.value)),
                class_="number",
            )
        )
        return parts
