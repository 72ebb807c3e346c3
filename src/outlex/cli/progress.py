"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from outlex.cli.output import human_bytes, human_duration, say, stderr_console

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Ticker"]

_LINE_EVERY_S = 10.0


class Ticker:
    """A context in which work can say how far it is. The bar appears with the first news."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._said_at = -_LINE_EVERY_S

    def __enter__(self) -> Ticker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def of_total(self, n_done: int, n_total: int, label: str) -> None:
        """`n_done` of `n_total` runs are done; `label` comes next."""
        self._tell(n_done, n_total, label, line=f"{n_done + 1} of {n_total}: {label}" if n_done < n_total else label)

    def of_time(self, elapsed_s: float, budget_s: float, label: str) -> None:
        """`elapsed_s` of the time are used; `label` comes next."""
        self._tell(elapsed_s, budget_s, label, line=f"{elapsed_s:.0f} of at most {budget_s:.0f} s: {label}")

    def of_bytes(self, n_done: int, n_total: int, label: str, *, elapsed_s: float) -> None:
        """`n_done` of `n_total` bytes were read in `elapsed_s`; `label` says more."""
        left = "" if not 0 < n_done < n_total else f", {human_duration(elapsed_s * (n_total / n_done - 1))} left"
        line = f"{human_bytes(n_done)} of {human_bytes(n_total)}{left}: {label}"
        self._tell(n_done, n_total, label, line=line)

    def _tell(self, done: float, total: float, label: str, *, line: str) -> None:
        console = stderr_console()
        if not console.is_terminal:
            if time.monotonic() - self._said_at >= _LINE_EVERY_S:
                self._said_at = time.monotonic()
                say(line)
            return
        if self._bars is None:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=console, transient=True)
            self._bars.add_task(label, total=total)
            self._bars.start()
        self._bars.update(self._bars.task_ids[0], completed=min(done, total), total=total, description=label)
