"""Options of the commands that say how tokens are drawn; `--temperature` means something else to each."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["SAMPLING_PANEL", "MinPOption", "RepetitionPenaltyOption", "TopKOption", "TopPOption"]

SAMPLING_PANEL = "How tokens are drawn"

TopKOption = Annotated[int, typer.Option("--top-k", help="0 is off.", rich_help_panel=SAMPLING_PANEL)]
TopPOption = Annotated[float, typer.Option("--top-p", help="1 is off.", rich_help_panel=SAMPLING_PANEL)]
MinPOption = Annotated[float, typer.Option("--min-p", help="0 is off.", rich_help_panel=SAMPLING_PANEL)]
RepetitionPenaltyOption = Annotated[
    float, typer.Option("--repetition-penalty", help="1 is off.", rich_help_panel=SAMPLING_PANEL)
]
