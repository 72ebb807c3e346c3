"""Results on disk: a file or a directory that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from outlex.atomic import TEMPORARY, make_directories, replace_file, sync_directory, undo
from outlex.errors import ArtifactError

__all__ = ["write_directory", "write_file"]


def write_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, parents included; what was there is replaced in one step.

    Raises:
        ArtifactError: a directory is in the way, or the disk refuses; an older file is still whole.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a directory", expected="a file to write", next_step="name a file in it with -o")
    made: list[Path] = []
    try:
        made = make_directories(path.parent)
        replace_file(path, data)
        sync_directory(path.parent)
    except BaseException as error:
        undo([], made)
        if isinstance(error, OSError):
            raise _refused(path, error) from error
        raise


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the directory `path` with what `fill` writes into the folder it is given, in one step.

    Raises:
        ArtifactError: something is there already, or the disk refuses; nothing is left behind.
    """
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ArtifactError(
            f"{path} exists already, and directories of other programs are never replaced",
            expected="a path that does not exist, or an empty directory",
            next_step="choose another directory with -o",
        )
    made: list[Path] = []
    work = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        made = make_directories(path.parent)
        work.mkdir()
        fill(work)
        for file in work.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        sync_directory(work)
        if path.is_dir():
            path.rmdir()
        os.replace(work, path)
        sync_directory(path.parent)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):
            undo([], made)
        if isinstance(error, OSError):
            raise _refused(path, error) from error
        raise


def _refused(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be written",
        got=error,
        expected="a folder that can be written to, and room in it",
        next_step="free some space, or choose another place with -o",
    )
