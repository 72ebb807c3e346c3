"""HTML and SVG that cannot be injected into: whatever is not markup already is escaped where it is put in."""

from __future__ import annotations

import html
import json
from typing import Any

__all__ = ["Markup", "data_block", "join", "tag"]

_VOID = frozenset(
    {"br", "circle", "ellipse", "line", "link", "meta", "path", "polygon", "polyline", "rect", "use", "wbr"}
)


class Markup(str):
    """Text that is HTML. Made by `tag` and `join`, or from files of this package."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: markup as it is, anything else escaped; None is left out.
        attributes: escaped; None and False are left out, True stands alone. Of the names a trailing underscore is
            dropped (`class_`), others become hyphens.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{html.escape(_plain(value))}"')
    if name in _VOID:
        return Markup(f"<{' '.join(words)}/>")
    return Markup(f"<{' '.join(words)}>{join(*children)}</{name}>")


def join(*parts: object, between: str = "") -> Markup:
    """Parts one after the other: markup as it is, anything else escaped, None left out."""
    shown = [part if isinstance(part, Markup) else html.escape(_plain(part)) for part in parts if part is not None]
    return Markup(between.join(shown))


def data_block(value: Any, *, id_: str) -> Markup:
    """JSON for the page's script, with no character in it that could end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(id_)}">{text}</script>')


def _plain(value: object) -> str:
    """Coordinates with one digit after the point: a tenth of a pixel is less than anyone sees."""
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)
