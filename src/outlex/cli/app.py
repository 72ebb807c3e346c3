"""The application: which commands there are, and how everything that goes wrong is told."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from outlex import __version__
from outlex.cli import (
    bench,
    convert,
    count,
    demo,
    diff,
    experiment,
    export,
    fit,
    fit_head,
    forecast,
    generate,
    inspect,
    merge,
    report,
    retrace,
    trace,
    trim,
    verify,
)
from outlex.cli.failures import EXIT_INTERRUPTED, EXIT_OTHER, explain, flush_stdout, silence_stdout
from outlex.cli.output import say

__all__ = ["app", "main"]

_EPILOG = (
    "Exit codes: 0 all went well; 1 a model, a file, the network or the machine would not do; 2 the"
    " command line, a prompt or a size cannot be used; 130 stopped with Ctrl-C.\n\n"
    "Results go to stdout, everything else to stderr. OUTLEX_DEBUG=1 is the same as --debug. Models are"
    " cached in OUTLEX_CACHE, or ~/.cache/outlex if it is not set."
)


class _Group(TyperGroup):
    """Turns what commands raise on purpose into a message and an exit code, with or without a terminal."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk shows here, while it can still be told
        except KeyboardInterrupt:
            say("\ninterrupted", style="yellow")  # below what the terminal echoed
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # `outlex ... | head`: the reader has seen enough
            silence_stdout()
            raise typer.Exit(EXIT_OTHER) from None
        except Exception as error:
            code = explain(error)
            if code is None:
                raise
            if ctx.obj:
                traceback.print_exc()
            flush_stdout()
            raise typer.Exit(code) from None
        return result


app = typer.Typer(
    name="outlex",
    cls=_Group,
    help="Small draft vocabularies for speculative decoding: trim a drafter, decode losslessly, measure it.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"outlex {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="OUTLEX_DEBUG", help="Show a trace with every error.")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    ctx.obj = debug


def _help(command: Callable[..., None]) -> str:
    """The docstring of a command, its paragraphs unfolded so that they fill the terminal; examples stay."""
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(p if p.startswith("\b") else p.replace("\n", " ") for p in paragraphs)


for _command in (
    demo.demo,
    count.count,
    merge.merge,
    trace.trace,
    retrace.retrace,
    trim.trim,
    fit_head.fit_head,
    fit.fit,
    experiment.experiment,
    forecast.forecast,
    generate.generate,
    bench.bench,
    report.report,
    inspect.inspect,
    diff.diff,
    convert.convert,
    export.export,
    verify.verify,
):
    app.command(_command.__name__.replace("_", "-"), help=_help(_command))(_command)


def main() -> None:
    """The console script `outlex`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without Unicode must not end a long run
    try:
        app()
    except KeyboardInterrupt:  # before a command began
        sys.exit(EXIT_INTERRUPTED)
    except Exception:
        traceback.print_exc()
        say(
            "outlex failed in a way that it should not. Please report this: the trace above, the command and"
            f" the versions (outlex {__version__}, Python {sys.version.split()[0]}, {sys.platform}).",
            style="bold red",
        )
        sys.exit(EXIT_OTHER)
