"""What all charts are drawn with. Colours and dashes are classes of `page.css`, so that both themes share a drawing.

Series k has the class `c{k}`, a marker shape and a dash of its own: it can be told apart without colours.
"""

from __future__ import annotations

from typing import Protocol

from outlex.report.markup import Markup, join, tag
from outlex.report.scale import Scale, label_of
from outlex.report.values import Value

__all__ = [
    "N_STYLES",
    "Chart",
    "data_of",
    "interval_bar",
    "legend",
    "line",
    "marker",
    "svg",
    "text",
    "vertical_grid",
]

N_STYLES = 8
_CAP = 3.0  # half the width of an interval's ends, pixels


class Chart(Protocol):
    """Something that can be drawn at any width, in pixels."""

    @property
    def label(self) -> str:
        """What it shows, for readers that do not see it."""

    @property
    def legend(self) -> Markup | None:
        """What its marks mean; None if it says so itself."""

    def draw(self, width: int) -> Markup:
        """The drawing, as wide as that."""


def svg(width: float, height: float, label: str, *children: object) -> Markup:
    """A drawing with the text that stands for it."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        aria_label=label,
    )


def text(x: float, y: float, words: object, *, anchor: str | None = None, class_: str | None = None) -> Markup:
    """Words at a place; `anchor` is "middle" or "end"."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def data_of(value: Value, tip: str) -> dict[str, object]:
    """Attributes of a mark: the numbers it stands for, and what is shown beside the pointer."""
    return {
        "data_value": f"{value.value:.6g}",
        "data_low": None if value.low is None else f"{value.low:.6g}",
        "data_high": None if value.high is None else f"{value.high:.6g}",
        "data_tip": tip,
    }


def marker(series: int, x: float, y: float, *, size: float = 4.0) -> Markup:
    """The shape of a series at a place."""
    shape, s = series % N_STYLES, size
    shapes = {
        1: [(-s, -s), (s, -s), (s, s), (-s, s)],
        2: [(0, -s * 1.25), (s * 1.15, s * 0.9), (-s * 1.15, s * 0.9)],
        3: [(0, -s * 1.4), (s * 1.4, 0), (0, s * 1.4), (-s * 1.4, 0)],
        4: [(0, s * 1.25), (s * 1.15, -s * 0.9), (-s * 1.15, -s * 0.9)],
        6: [(-s, -s), (s, -s), (s, s), (-s, s)],
        7: [(0, -s * 1.4), (s * 1.4, 0), (0, s * 1.4), (-s * 1.4, 0)],
    }
    class_ = f"mark c{shape}" + (" hollow" if shape >= 5 else "")
    if shape not in shapes:
        return tag("circle", cx=x, cy=y, r=s, class_=class_)
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[shape])
    return tag("polygon", points=points, class_=class_)


def interval_bar(series: int, low: tuple[float, float], high: tuple[float, float]) -> Markup:
    """The interval between two points that share x or y, with caps."""
    (x1, y1), (x2, y2) = low, high
    if y1 == y2:
        caps = "".join(f"M{x:.1f} {y1 - _CAP:.1f}v{2 * _CAP:.0f}" for x in (x1, x2))
        path = f"M{x1:.1f} {y1:.1f}H{x2:.1f}{caps}"
    else:
        caps = "".join(f"M{x1 - _CAP:.1f} {y:.1f}h{2 * _CAP:.0f}" for y in (y1, y2))
        path = f"M{x1:.1f} {y1:.1f}V{y2:.1f}{caps}"
    return tag("path", d=path, class_=f"interval c{series % N_STYLES}")


def vertical_grid(scale: Scale, *, top: float, bottom: float, n: int) -> Markup:
    """Lines and numbers of a horizontal axis, numbers below `bottom`."""
    ticks = scale.ticks(n)
    return join(
        *(line(scale(x), top, scale(x), bottom, "zero" if x == 0 else "grid") for x in ticks),
        *(text(scale(x), bottom + 16, label_of(x, ticks), anchor="middle", class_="tick") for x in ticks),
    )


def legend(names: list[str], *, lines: bool = False, styles: list[int] | None = None) -> Markup:
    """The series by name, each with its marker, and its line if it has one."""
    items = []
    for name, style in zip(names, styles or range(len(names)), strict=True):
        drawn = join(
            line(0, 7, 26, 7, f"line c{style % N_STYLES}") if lines else None,
            marker(style, 13, 7, size=3.6),
        )
        items.append(
            tag(
                "li",
                tag("svg", drawn, viewBox="0 0 26 14", width="26", height="14", aria_hidden="true"),
                tag("span", name),
            )
        )
    return tag("ul", *items, class_="legend")
