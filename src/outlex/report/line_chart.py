"""Curves with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from outlex.report.drawing import N_STYLES, data_of, interval_bar, legend, line, marker, svg, text
from outlex.report.markup import Markup, join, tag
from outlex.report.scale import Scale, covering, label_of
from outlex.report.values import Value, short

__all__ = ["Curve", "LineChart"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One series.

    Attributes:
        name: of it.
        points: x and y, by x.
        band: shade the interval instead of drawing it at each point.
        joined: draw the line through the points.
    """

    name: str
    points: tuple[tuple[float, Value], ...]
    band: bool = False
    joined: bool = True


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Curves over one x axis.

    Attributes:
        label: what it shows, in a sentence.
        curves: at most `N_STYLES`, each with at least one point.
        x_name, y_name: of the axes.
        x_log, y_log: logarithmic.
        x_ticks: where the x axis is marked; None chooses.
        y_zero: the y axis begins at 0.
    """

    label: str
    curves: tuple[Curve, ...]
    x_name: str
    y_name: str
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[float, ...] | None = None
    y_zero: bool = False

    def __post_init__(self) -> None:
        if not self.curves or len(self.curves) > N_STYLES or not all(curve.points for curve in self.curves):
            raise ValueError(f"{len(self.curves)} curves cannot be drawn")

    @property
    def legend(self) -> Markup:
        return legend([curve.name for curve in self.curves], lines=any(curve.joined for curve in self.curves))

    def draw(self, width: int) -> Markup:
        height = min(340.0, 150 + width * 0.3)
        left, right, top, bottom = 54.0, width - 14.0, 26.0, height - 42
        xs = [x for curve in self.curves for x, _ in curve.points]
        ys = [
            y
            for curve in self.curves
            for _, value in curve.points
            for y in (value.value, value.low, value.high)
            if y is not None and (y > 0 or not self.y_log)
        ]
        x_axis = covering(xs, start=left, end=right, log=self.x_log, room=0.03)
        y_axis = covering(ys, start=bottom, end=top, log=self.y_log, zero=self.y_zero)
        return svg(
            width,
            height,
            self.label,
            self._grid(x_axis, y_axis, n=max(3, width // 110)),
            # bands first: they must not lie on other curves
            *(_band(k, curve, x_axis, y_axis) for k, curve in enumerate(self.curves) if curve.band),
            *(self._curve(k, curve, x_axis, y_axis) for k, curve in enumerate(self.curves)),
            text(left - 40, 13, self.y_name, class_="axis"),
            text(right, height - 6, self.x_name, anchor="end", class_="axis"),
        )

    def _grid(self, x_axis: Scale, y_axis: Scale, *, n: int) -> Markup:
        y_ticks = y_axis.ticks(5)
        x_ticks = [x for x in self.x_ticks or x_axis.ticks(n) if x_axis.low <= x <= x_axis.high]
        labels = [short(x) if self.x_ticks or self.x_log else label_of(x, x_ticks) for x in x_ticks]
        y_label = short if self.y_log else partial(label_of, ticks=y_ticks)
        shown: list[tuple[float, str]] = []
        for x, label in zip(x_ticks, labels, strict=True):  # those with room beside the one before
            if not shown or x_axis(x) - x_axis(shown[-1][0]) > 12 + 3.4 * (len(label) + len(shown[-1][1])):
                shown.append((x, label))
        left, right, bottom = x_axis.start, x_axis.end, y_axis.start
        return join(
            *(line(left, y_axis(y), right, y_axis(y), "zero" if y == 0 else "grid") for y in y_ticks),
            *(text(left - 7, y_axis(y) + 4, y_label(y), anchor="end", class_="tick") for y in y_ticks),
            *(line(x_axis(x), bottom, x_axis(x), bottom + 4, "stub") for x in x_ticks),
            *(text(x_axis(x), bottom + 17, label, anchor="middle", class_="tick") for x, label in shown),
        )

    def _curve(self, k: int, curve: Curve, x_axis: Scale, y_axis: Scale) -> Markup:
        path = "L".join(f"{x_axis(x):.1f} {y_axis(value.value):.1f}" for x, value in curve.points)
        parts = [tag("path", d=f"M{path}", class_=f"line c{k}")] if curve.joined and len(curve.points) > 1 else []
        for x, value in curve.points:
            shown = None
            if (
                not curve.band
                and value.low is not None
                and value.high is not None
                and not (self.y_log and value.low <= 0)
            ):
                shown = interval_bar(k, (x_axis(x), y_axis(value.low)), (x_axis(x), y_axis(value.high)))
            tip = f"{curve.name}\n{self.x_name} {short(x)}: {value}"
            parts.append(
                tag("g", shown, marker(k, x_axis(x), y_axis(value.value)), data_x=f"{x:.6g}", **data_of(value, tip))
            )
        return tag("g", *parts, data_series=curve.name)


def _band(k: int, curve: Curve, x_axis: Scale, y_axis: Scale) -> Markup | None:
    ends = [(x, value.low, value.high) for x, value in curve.points if value.low is not None and value.high is not None]
    if len(ends) < 2:
        return None
    there = [f"{x_axis(x):.1f},{y_axis(high):.1f}" for x, _, high in ends]
    back = [f"{x_axis(x):.1f},{y_axis(low):.1f}" for x, low, _ in reversed(ends)]
    return tag("polygon", points=" ".join([*there, *back]), class_=f"band c{k}")
