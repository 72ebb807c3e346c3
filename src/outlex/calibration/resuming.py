"""When a checkpoint of a count is written, and whether one that is found belongs to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outlex.calibration.checkpoint import Progress, RunningSums, write_checkpoint
from outlex.errors import InputError

__all__ = ["CheckpointWriter", "check_identity"]

_SHARE_OF_TIME = 0.05  # that checkpoints may take


class CheckpointWriter:
    """Writes checkpoints, not too often."""

    def __init__(self, path: Path | None, *, identity: dict[str, Any], every_s: float) -> None:
        self._path = path
        self._identity = identity
        self._every_s = every_s
        self._next = 0.0

    def write(self, progress: Progress, sums: RunningSums) -> None:
        if self._path is None:
            return
        begun = time.monotonic()
        write_checkpoint(self._path, identity=self._identity, progress=progress, sums=sums)
        ended = time.monotonic()
        self._next = ended + max(self._every_s, (ended - begun) / _SHARE_OF_TIME)

    def write_if_due(self, progress: Progress, sums: RunningSums) -> None:
        if time.monotonic() >= self._next:
            self.write(progress, sums)


def check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if found == wanted:
        return
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    changed = ", ".join(differing)
    if differing == ["files"]:
        before = {entry[0]: entry for entry in found["files"]}
        names = [file[0] for file in wanted["files"] if before.get(file[0]) != file]
        names += sorted(set(before) - {file[0] for file in wanted["files"]})
        changed = f"files: {', '.join(names)}"
    raise InputError(
        f"The unfinished count in {path} is of something else",
        got=f"changed since then: {changed:.300}",
        expected="the same sources, files, tokenizer and options",
        next_step="put them back to go on, pass --overwrite to count from the beginning, or choose another -o",
    )
