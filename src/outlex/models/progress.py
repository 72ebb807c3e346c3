"""What the loading of a model says while it works.

Bars on a terminal, plain lines elsewhere (so that the log of a CI run moves too), nothing when switched off.
Everything goes to stderr: stdout belongs to results.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

__all__ = ["Reporter"]

_logger = logging.getLogger("outlex.models")
# A plain log gets one line for each tenth of a download, and one after this long without any.
_SILENCE_S = 15.0


class Reporter:
    """Progress of one call.

    Args:
        enabled: False keeps stderr silent; the lines of `note` still reach the logger "outlex.models" (INFO).
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._console = Console(file=sys.stderr, highlight=False)
        self.has_bars = enabled and self._console.is_terminal

    def note(self, line: str) -> None:
        """Print one line."""
        _logger.info(line)
        if self.enabled:
            self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def download(self, label: str, *, n_bytes: int) -> Iterator[Callable[[int], None]]:
        """A bar for `n_bytes`. Yields a function that takes the number of bytes that are there so far."""
        if not self.has_bars:
            yield self._plain_download(label, n_bytes=n_bytes)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(label, total=n_bytes)
            yield lambda done: bars.update(task, completed=min(done, n_bytes))

    def _plain_download(self, label: str, *, n_bytes: int) -> Callable[[int], None]:
        tenths_said, said_at = -1, time.monotonic()

        def update(done: int) -> None:
            nonlocal tenths_said, said_at
            done = min(done, n_bytes)
            tenths = 10 * done // max(n_bytes, 1)
            if tenths > tenths_said or time.monotonic() - said_at > _SILENCE_S:
                tenths_said, said_at = tenths, time.monotonic()
                self.note(f"{label}: {done / 1e6:.0f} of {n_bytes / 1e6:.0f} MB")

        return update

    @contextmanager
    def stages(self, label: str) -> Iterator[Callable[[str], None]]:
        """Work of unknown length. Yields a function that takes the name of the stage that begins."""
        if not self.has_bars:
            yield lambda stage: self.note(f"{label}: {stage}")
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(label, total=None)
            yield lambda stage: bars.update(task, description=f"{label}: {stage}")
