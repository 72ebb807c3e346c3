"""The file that a running benchmark leaves its rows in, so that a kill loses one prompt at most."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from outlex.bench.rows import Row
from outlex.errors import ArtifactError

__all__ = ["PartialFile"]


class PartialFile:
    """`<output>.partial`: the header in the first line, then one run a line. `BenchResult.load` reads it.

    It is opened before anything is loaded, so that an output that cannot be written is found at once. It goes
    away when the benchmark ends well, or ends before its first row.

    Args:
        output: the result's file; None keeps nothing.

    Raises:
        ArtifactError: it cannot be written.
    """

    def __init__(self, output: str | os.PathLike[str] | None) -> None:
        self.path = None if output is None else Path(f"{os.fspath(output)}.partial")
        self._file: IO[str] | None = None
        self._n_rows = 0

    def __enter__(self) -> PartialFile:
        if self.path is not None:
            try:
                if self.path.with_suffix("").is_dir():
                    raise IsADirectoryError(f"{self.path.with_suffix('')} is a folder")
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", encoding="utf-8")
            except OSError as error:
                raise self._refused(error) from error
        return self

    def write_header(self, header: dict[str, Any]) -> None:
        """Write the first line; values must be JSON."""
        self._write([header])

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Add the runs of a prompt."""
        self._n_rows += len(rows)
        self._write([asdict(row) for row in rows])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None or self.path is None:
            return
        self._file.close()
        if error is None or not self._n_rows:
            self.path.unlink(missing_ok=True)

    def _write(self, values: Sequence[dict[str, Any]]) -> None:
        if self._file is None:
            return
        try:
            self._file.writelines(json.dumps(value, allow_nan=False) + "\n" for value in values)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            "The result of the benchmark cannot be written",
            got=error,
            expected="a file in a folder that can be written to",
            next_step="choose another file with -o",
        )
