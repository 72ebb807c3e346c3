"""Bars made of parts: where something goes."""

from __future__ import annotations

from dataclasses import dataclass

from outlex.report.drawing import data_of, svg, text, vertical_grid
from outlex.report.markup import Markup, join, tag
from outlex.report.scale import Scale, covering
from outlex.report.values import Value, short

__all__ = ["Stack", "StackedChart"]

_NARROW = 480
_BAR = 20.0


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One bar.

    Attributes:
        group: heading it stands under.
        name: of it.
        parts: at least 0, one a name of the chart; None where it has no such part.
    """

    group: str
    name: str
    parts: tuple[float | None, ...]

    @property
    def total(self) -> float:
        return sum(part or 0.0 for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class StackedChart:
    """Bars of parts over one axis.

    Attributes:
        label: what it shows, in a sentence.
        stacks: in order; those of one group one after the other.
        parts: names, at most four; those that no bar has are left out of the legend.
        x_name: of the axis, with the unit.
    """

    label: str
    stacks: tuple[Stack, ...]
    parts: tuple[str, ...]
    x_name: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.parts) <= 4:
            raise ValueError(f"{len(self.parts)} parts cannot be told apart")
        if not self.stacks or any((part or 0.0) < 0 for stack in self.stacks for part in stack.parts):
            raise ValueError("there are no bars, or one has a negative part")

    @property
    def legend(self) -> Markup:
        items = [
            tag(
                "li",
                tag("svg", _box(k, 0, 1, 18, 12), viewBox="0 0 18 14", width="18", height="14", aria_hidden="true"),
                tag("span", name),
            )
            for k, name in enumerate(self.parts)
            if any(stack.parts[k] for stack in self.stacks)
        ]
        return tag("ul", *items, class_="legend")

    def draw(self, width: int) -> Markup:
        narrow = width < _NARROW
        left = 6.0 if narrow else min(width * 0.4, 24 + 6.7 * max(len(stack.name) for stack in self.stacks))
        totals = [stack.total for stack in self.stacks]
        axis = covering([0.0, *totals], start=left, end=width - 60.0, zero=True, room=0.0)
        step = _BAR + (26 if narrow else 9)
        groups = list(dict.fromkeys(stack.group for stack in self.stacks))
        top = 6.0
        bottom = top + step * len(self.stacks) + sum(28 for group in groups if group)
        parts: list[Markup] = [vertical_grid(axis, top=top, bottom=bottom, n=max(3, width // 120))]
        y = top
        for group in groups:
            if group:
                parts.append(text(0, y + 18, group, class_="group"))
                y += 28
            for stack in self.stacks:
                if stack.group == group:
                    parts.append(self._stack(stack, axis, y, narrow=narrow))
                    y += step
        parts.append(text(axis.end, bottom + 34, self.x_name, anchor="end", class_="axis"))
        return svg(width, bottom + 40, self.label, *parts)

    def _stack(self, stack: Stack, axis: Scale, y: float, *, narrow: bool) -> Markup:
        top = y + (18 if narrow else 4)
        parts = [
            text(
                0 if narrow else axis.start - 10,
                y + (13 if narrow else 18),
                stack.name,
                anchor=None if narrow else "end",
                class_="name",
            )
        ]
        reached = 0.0
        for k, part in enumerate(stack.parts):
            if not part:
                continue
            x, end = axis(reached), axis(reached + part)
            of = f"{stack.name}, {stack.group}" if stack.group else stack.name
            tip = f"{of}\n{self.parts[k]}: {short(part)} ({part / stack.total:.0%})"
            share = text((x + end) / 2, top + 14, f"{part / stack.total:.0%}", anchor="middle", class_=f"inside i{k}")
            parts.append(
                tag(
                    "g",
                    _box(k, x, top, max(end - x - 1, 0.5), _BAR),  # a pixel of air between neighbours
                    share if end - x > 38 else None,
                    data_part=self.parts[k],
                    **data_of(Value(value=part), tip),
                )
            )
            reached += part
        parts.append(text(axis(reached) + 7, top + 14, short(stack.total), class_="number"))
        return tag("g", *parts)


def _box(k: int, x: float, y: float, width: float, height: float) -> Markup:
    """A part in its colour and its hatching."""
    place = {"x": x, "y": y, "width": width, "height": height}
    return join(
        tag("rect", class_=f"part p{k}", **place),
        tag("rect", fill=f"url(#hatch{k})", **place) if k % 2 else None,  # neighbours differ without colours
    )
