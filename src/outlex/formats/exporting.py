"""What every export of a whole drafter is asked and what it answers. `outlex.formats.exports` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outlex.formats.base import check_width

__all__ = ["Export", "ExportRequest", "Exported"]


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """One export.

    Attributes:
        artifact: directory that `outlex trim`, `fit-head` or `fit` wrote.
        output: a directory that does not exist.
        drafter: the model that it belongs to, as `load_model` takes it; None takes the one that the artifact names.
        n_target: width of the target's head, padding included; None takes the artifact's own.

    Raises:
        InputError: a width that no head has.
    """

    artifact: Path
    output: Path
    drafter: str | None = None
    n_target: int | None = None

    def __post_init__(self) -> None:
        check_width(self.n_target)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        output: the directory.
        drafter: the model that its weights are of.
        n_draft: tokens that each position's proposal covers, at least.
        n_target: width of the target's head.
        proposal: how draft tokens are drawn.
        usage: how the engine is told to take it, a line to copy.
        notes: what to mind, in words.
    """

    output: Path
    drafter: str
    n_draft: int
    n_target: int
    proposal: str
    usage: str
    notes: tuple[str, ...] = ()


Export = Callable[[ExportRequest], Exported]
