"""The command line: parse, build a frozen config, call, print. `main` is the console script."""

from outlex.cli.app import main

__all__ = ["main"]
