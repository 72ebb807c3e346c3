"""Files of `torch.save`, read without executing anything in them.

A pickle can run any code when it is loaded. torch's weights-only reader knows lists, numbers, tensors and little else,
and refuses the rest. Before it sees a byte, the archive is checked as what `torch.save` writes: a zip file of stored
(not compressed) entries whose checksums hold, which torch itself does not look at.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from outlex.errors import ArtifactError

__all__ = ["load_safely"]

_MAGIC = b"PK\x03\x04"


def load_safely(path: Path, *, expected: str) -> Any:
    """What `torch.save` stored: lists, dicts, numbers, tensors (on the CPU, mapped from the file).

    Args:
        path: a file in the format that torch has written since 1.6.
        expected: what the caller can use, for the messages.

    Raises:
        ArtifactError: cut off, damaged, of another format, or with anything in it but plain values and tensors.
    """
    _check_archive(path, expected)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about archives of other kinds, which end in an error anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # bytes that are no checkpoint make torch raise nearly anything
        raise ArtifactError(
            f"{path} holds something else than plain values and tensors, and is not loaded",
            got=f"{type(error).__name__}: {error}".partition("\n")[0][:200],
            expected=expected,
            next_step="ask its author for a list of ids (JSON, or torch.save of a plain list): unpickling it could run"
            " any code",
        ) from error


def _check_archive(path: Path, expected: str) -> None:
    got: object
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        if magic == _MAGIC:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
                if stored and sum(entry.file_size for entry in entries) <= os.path.getsize(path):
                    damaged = archive.testzip()
                    if damaged is None:
                        return
                    got = f"the checksum of {damaged!r:.60} does not hold"
                else:
                    got = "a zip archive that torch.save did not write"
        else:
            got = f"begins with {magic!r}" + (
                ", a bare pickle or a file of torch before 1.6" if magic[:1] == b"\x80" else ""
            )
    except Exception as error:  # zipfile on damaged bytes: BadZipFile, NotImplementedError, struct.error, EOFError, ...
        got = f"{type(error).__name__}: {error}"[:200]
    raise ArtifactError(
        f"{path} is no whole file of torch.save",
        got=got,
        expected=expected,
        next_step="copy it again; an old one is converted by loading it with weights_only=True and saving it again",
    )
