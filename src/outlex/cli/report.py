"""`outlex report`: the results of a directory on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outlex.cli.options import JsonOption
from outlex.cli.output import emit_json, human_bytes, print_facts, say, stdout_console

__all__ = ["report"]


def report(
    directory: Annotated[Path, typer.Argument(help="Directory with result files; those below it are read as well.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write; an older one is replaced.")],
    title: Annotated[str | None, typer.Option("--title", help="Of the page. Default: the directory's name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one HTML page of every result in a directory: figures, tables, and texts token by token.

    The page works without network, in light and dark, on a phone and for readers that do not see it. It takes what
    bench, experiment and generate --trace write, and what forecast, fit, trim and count print with --json. JSON files
    that are no results are named and left out; a damaged result ends the command.

    \b
    Example:
      outlex report results -o report.html
      outlex report results -o report.html --title "Qwen pair"
    """
    from outlex.report import write_report

    results = write_report(directory, output, title=title)
    n_bytes = output.stat().st_size
    if as_json:
        emit_json(
            {
                "output": str(output),
                "n_bytes": n_bytes,
                "sections": [
                    {"file": one.source.name, "title": one.title, "figures": [figure.title for figure in one.figures]}
                    for one in results.sections
                ],
                "unknown": results.unknown,
            }
        )
        return
    n_figures = sum(len(section.figures) for section in results.sections)
    facts = {"page": f"{output} ({human_bytes(n_bytes)})", "results": f"{len(results.sections)}, {n_figures} figures"}
    print_facts(stdout_console(), facts)
    for name in results.unknown:
        say(f"no result of outlex, left out: {name}", style="yellow")
