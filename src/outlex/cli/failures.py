"""Errors that a user can act on: the message and the exit code, without a trace."""

from __future__ import annotations

import os
import sys

from rich.text import Text

from outlex.cli.output import stderr_console
from outlex.errors import InputError, OutlexError

__all__ = ["EXIT_INPUT", "EXIT_INTERRUPTED", "EXIT_OTHER", "explain", "flush_stdout", "silence_stdout"]

EXIT_OTHER = 1
EXIT_INPUT = 2  # the code that the option parser uses, too
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def explain(error: Exception) -> int | None:
    """Print an error that was foreseen and return its exit code; None for any other, which is a bug."""
    if isinstance(error, OutlexError):
        _print(error.what, got=error.got, expected=error.expected, next_step=error.next_step)
        return EXIT_INPUT if isinstance(error, InputError) else EXIT_OTHER
    if isinstance(error, OSError):
        _print(
            "The system refused to read or write",
            got=error,
            next_step="check the path, its permissions and the free space, then run the command again",
        )
        return EXIT_OTHER
    # torch's error for a full GPU, which cannot be imported here without importing torch
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _print(
            "There is not enough memory",
            got=str(error).partition("\n")[0] or None,
            next_step="take smaller models, --dtype bfloat16, or another --device",
        )
        return EXIT_OTHER
    return None


def _print(what: str, *, got: object = None, expected: object = None, next_step: str | None = None) -> None:
    console = stderr_console()
    console.print(Text.assemble(("error: ", "bold red"), (what, "bold")), soft_wrap=True)
    for label, value, style in (
        ("got", got, "red"),
        ("expected", expected, ""),
        ("next", next_step, "green"),
    ):
        if value is not None:
            lines = str(value).splitlines() or [""]
            text = f"\n{'':12}".join(lines)  # continued lines stay below the value
            console.print(Text.assemble((f"  {label + ':':<10}", "dim"), (text, style)), soft_wrap=True)


def flush_stdout() -> None:
    """What stdout still holds goes out, or is given up: the interpreter would try again and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def silence_stdout() -> None:
    """Nothing reads stdout any more: keep the interpreter from complaining when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
