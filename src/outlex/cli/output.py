"""What goes where: results to stdout, everything else to stderr. Colours follow the terminal and NO_COLOR."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = [
    "copyable",
    "emit_json",
    "human_bytes",
    "human_duration",
    "print_facts",
    "say",
    "stderr_console",
    "stdout_console",
]

_WIDTH_OF_FILES = 120  # columns when the output is no terminal: tables must not be folded for a log


def stdout_console() -> Console:
    """Where results are printed."""
    return _console(Console(highlight=False))


def stderr_console() -> Console:
    """Where progress, statistics and errors are printed."""
    return _console(Console(stderr=True, highlight=False))


def _console(console: Console) -> Console:
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


def say(line: str, *, style: str = "") -> None:
    """One line on stderr, taken as it is (no markup, not folded)."""
    stderr_console().print(Text(line, style=style), soft_wrap=True)


def emit_json(value: Any) -> None:
    """One JSON document on stdout; ASCII, so that it parses in every locale. NaN and infinity become null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Names and values, one pair a line, values aligned."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:<{width}}  ", "dim"), value), soft_wrap=True)


def human_bytes(n_bytes: float) -> str:
    """Decimal units, as disks and networks count: 272269312 -> "272.3 MB"."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"


def human_duration(seconds: float) -> str:
    """75.2 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def copyable(arguments: Sequence[str]) -> str:
    """A command line of outlex as it can be pasted into this shell, whether or not outlex is on its path."""
    script = Path(sys.argv[0]).absolute()
    program, found = "outlex", shutil.which("outlex")
    if script.name == "outlex" and script.exists() and not (found and script.samefile(found)):
        program = str(script.relative_to(Path.cwd())) if script.is_relative_to(Path.cwd()) else str(script)
    return shlex.join([program, *arguments])
