"""An experiment's result: rows of plain values with the environment and the config they came from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outlex.atomic import make_directories, replace_file
from outlex.bench.environment import publishable
from outlex.metrics import Estimate

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["ExperimentResult", "interval"]

_SCHEMA = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentResult:
    """What one experiment found.

    Attributes:
        name: of the experiment.
        question: that it answers, one sentence.
        environment: see `outlex.bench.environment.describe_environment`.
        config: what it was run with, JSON values.
        columns: of the table, names of entries of the rows.
        rows: JSON values by name; an interval is [value, low, high].
        notes: what the numbers say, and what the reader has to know of them.
    """

    name: str
    question: str
    environment: dict[str, Any] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values that may be published: NaN is null, and no folder of this machine is in them."""
        body = {"kind": "outlex-experiment", "schema": _SCHEMA, **asdict(self)}
        plain: dict[str, Any] = publishable(_plain(body))
        return plain

    def save(self, directory: Path) -> Path:
        """Write `<name>.json`; an existing one is replaced whole."""
        make_directories(directory)
        path = directory / f"{self.name}.json"
        replace_file(path, json.dumps(self.to_json(), indent=1, allow_nan=False).encode() + b"\n")
        return path

    def renderable(self) -> RenderableType:
        """For `rich`: the columns of the rows that are about all domains."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False)
        for name in self.columns:
            text = all(isinstance(row.get(name), str) for row in self.rows)
            table.add_column(name, justify="left" if text else "right", no_wrap=True)
        # per-domain rows are many, and are in the file
        for row in (row for row in self.rows if row.get("domain", "all") == "all"):
            table.add_row(*(_cell(row.get(name)) for name in self.columns))
        return Group(Text(self.question, style="italic"), table, *(Text(f"• {note}") for note in self.notes))


def interval(estimate: Estimate) -> list[float]:
    """[value, low, high]."""
    return [estimate.value, estimate.low, estimate.high]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, list) and len(value) == 3:
        half = (value[2] - value[1]) / 2
        return _short(value[0]) + ("" if math.isnan(half) else f" ±{_short(half)}")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    """Four digits, without the 0 in front."""
    return f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
