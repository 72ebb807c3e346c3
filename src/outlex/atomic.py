"""Files that are written whole or not at all, and are on the disk once the call returns."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["TEMPORARY", "make_directories", "replace_file", "sync_directory", "undo"]

# A kill can leave a file of this prefix; nothing ever refers to it.
TEMPORARY = ".outlex-tmp-"


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: temporary file, fsync, rename.

    Readers see the old contents or the new ones. The rename itself is durable only after
    `sync_directory`.

    Raises:
        OSError: whatever the disk says; the temporary file is gone and ``path`` is as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    try:
        # Not tempfile: its files are private to the user, and these follow the umask.
        descriptor = os.open(temporary, flags, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def make_directories(directory: Path) -> list[Path]:
    """Make ``directory`` and its parents, durably; returns those that are new, innermost last.

    Raises:
        OSError: whatever the disk says; no new directory stays behind.
    """
    missing = [place for place in (directory, *directory.parents) if not place.exists()][::-1]
    made: list[Path] = []
    try:
        for place in missing:
            place.mkdir()
            made.append(place)
            sync_directory(place.parent)
    except BaseException:
        undo([], made)
        raise
    return made


def sync_directory(directory: Path) -> None:
    """Make renames and new names in ``directory`` survive a power cut."""
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def undo(files: list[Path], made: list[Path]) -> None:
    """Remove ``files``, then the directories that `make_directories` returned if they are empty."""
    for path in files:
        with suppress(OSError):
            path.unlink()
    for place in reversed(made):
        with suppress(OSError):
            place.rmdir()
