"""Options of the commands that read token maps."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["NTargetOption", "ReadAs", "ReadAsOption", "StatsOption", "TokenizerOption"]

_PANEL = "What the file does not say"


class ReadAs(str, Enum):
    """How the numbers of a map are spelled."""

    offsets = "offsets"
    absolute = "absolute"


TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="The model whose tokens the ids are: names them, and shows which must-keep tokens are missing.",
        rich_help_panel=_PANEL,
    ),
]
StatsOption = Annotated[
    Path | None,
    typer.Option("--stats", help="Statistics of 'outlex count': the share of counted tokens that have a row."),
]
ReadAsOption = Annotated[
    ReadAs | None,
    typer.Option(
        "--read-as",
        help="For a map that can be read in two ways: offsets (id = row + number, as in EAGLE-3) or absolute ids.",
        rich_help_panel=_PANEL,
    ),
]
NTargetOption = Annotated[
    int | None,
    typer.Option("--n-target", min=1, help="Rows of the target's head, padding included.", rich_help_panel=_PANEL),
]
