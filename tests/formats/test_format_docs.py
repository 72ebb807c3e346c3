"""docs/engines.md says what the code says."""

from __future__ import annotations

from pathlib import Path

from outlex.formats import FORMATS, WRITERS
from outlex.formats.engines import RULES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")


def engine_rows() -> str:
    """The table of engines, one row a rule."""
    rows = []
    for rule in RULES:
        formats = ", ".join(f"`{name}`" for name in rule.formats) or "none"
        rows.append(f"| {rule.engine} | {formats} | {rule.reads} | {'; '.join(rule.traps) or '–'} |")
    return "\n".join(rows)


def test_the_table_of_engines() -> None:
    assert engine_rows() in PAGE


def test_every_format_is_on_the_page() -> None:
    assert [name for name in WRITERS if f"| `{name}` |" not in PAGE] == []
    assert [form.name for form in FORMATS if f"`{form.name}`" not in PAGE] == []
