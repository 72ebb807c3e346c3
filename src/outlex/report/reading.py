"""Which files of a directory are results of outlex, and what is in them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from outlex.errors import ArtifactError, InputError
from outlex.report.figure import Section
from outlex.report.kinds import KINDS, Kind
from outlex.report.source import Source

__all__ = ["Results", "read_results"]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a directory holds.

    Attributes:
        sections: one a result, in the order of `KINDS` and then of file names.
        unknown: JSON files that are no result of outlex.
    """

    sections: tuple[Section, ...]
    unknown: tuple[str, ...]


def read_results(directory: str | os.PathLike[str]) -> Results:
    """Read every `*.json` in a directory and the directories below it; hidden ones are left out.

    Raises:
        InputError: no directory, or no result in it.
        ArtifactError: a file that cannot be read, is no JSON, or is a result with something missing or wrong in it.
    """
    root = Path(directory)
    if not root.is_dir():
        raise InputError(
            "There is no such directory",
            got=str(root),
            expected="a directory with result files of outlex",
            next_step="name the directory that commands wrote their results to with -o",
        )
    found: list[tuple[Kind, Source]] = []
    unknown = []
    for path in sorted(root.rglob("*.json")):
        below = path.relative_to(root)
        if any(part.startswith(".") for part in below.parts) or not path.is_file():
            continue
        body = _read(path)
        kind = next((kind for kind in KINDS if isinstance(body, dict) and kind.matches(body)), None)
        if kind is None:
            unknown.append(below.as_posix())
        else:
            found.append((kind, Source(name=below.as_posix(), path=path, body=body)))
    if not found:
        raise InputError(
            "There is nothing to report",
            got=f"{len(unknown)} JSON files in {root}, none of them a result of outlex"
            if unknown
            else f"{root}: no JSON",
            expected="results of bench, experiment, forecast, fit, trim, count or generate",
            next_step="write one with 'outlex bench … -o DIR/bench.json' or 'outlex … --json > DIR/NAME.json'",
        )
    found.sort(key=lambda pair: KINDS.index(pair[0]))  # stable: names stay in order
    return Results(sections=tuple(_section(kind, source) for kind, source in found), unknown=tuple(unknown))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} cannot be read",
            got=error,
            expected="a JSON file that is whole",
            next_step="make it again, or move it out of the directory",
        ) from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _section(kind: Kind, source: Source) -> Section:
    try:
        return kind.section(source)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{source.path} is damaged",
            got=repr(error),
            expected=f"{kind.name}, whole and as outlex wrote it",
            next_step="make it again, or move it out of the directory",
        ) from error
