"""From what the user wrote to a list of files: paths, folders, patterns and data sets of the model hub."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from outlex.calibration.opening import COMPRESSIONS
from outlex.errors import InputError

__all__ = ["CorpusFile", "Format", "Source", "format_of", "list_files", "parse_source"]

Format = Literal["jsonl", "parquet", "text"]

HUB_PREFIX = "hub:"
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}
_DOMAIN = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_HEAD_BYTES = 1 << 16
_KNOWN = f"{', '.join(_FORMATS)}, each also with {', '.join(COMPRESSIONS)}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One corpus argument.

    Attributes:
        given: as the user wrote it.
        place: the path, pattern or ``hub:`` name in it.
        domain: the name before ``=``, or None.
    """

    given: str
    place: str
    domain: str | None

    @property
    def fallback(self) -> str:
        """The domain of records that name none: the name of the file or of the folder."""
        if self.place.startswith(HUB_PREFIX):
            return self.place.removeprefix(HUB_PREFIX)
        fixed = []
        for part in Path(self.place).parts:
            if glob.has_magic(part):
                break
            fixed.append(part)
        name = PurePosixPath(*fixed).name if fixed else ""
        return _stem(name or Path.cwd().name) or "corpus"


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One file of a corpus.

    Attributes:
        source: index of the source it was found by.
        path: a path, or an ``hf://`` URL.
        format: what it holds.
        compression: a value of `COMPRESSIONS`, or None.
        n_bytes: on the disk.
        identity: changes when the file does: time of change and sha256 of its beginning, or the hub's hash.
    """

    source: int
    path: str
    format: Format
    compression: str | None
    n_bytes: int
    identity: str


def parse_source(given: str) -> Source:
    """Take ``DOMAIN=PLACE`` or ``PLACE`` apart.

    A path that exists as it is written is a path; a pattern with ``=`` in its first part is written ``./a=*``.

    Raises:
        InputError: nothing is given.
    """
    match = None if os.path.exists(given) else _DOMAIN.fullmatch(given)
    place = match[2] if match else given
    if not place.strip() or given.startswith("="):
        raise InputError(
            "A corpus has no path",
            got=repr(given),
            expected="PATH, DOMAIN=PATH or hub:OWNER/NAME",
            next_step="write the path of a file or folder after the =",
        )
    return Source(given=given, place=place, domain=match[1] if match else None)


def format_of(name: str) -> tuple[Format | None, str | None]:
    """Format and compression by the end of a file name; None for those it does not tell."""
    stem, end = os.path.splitext(name.lower())
    compression = COMPRESSIONS.get(end)
    if compression is not None:
        end = os.path.splitext(stem)[1]
    return _FORMATS.get(end), compression


def list_files(sources: Sequence[Source], *, format: Format | None = None) -> list[CorpusFile]:
    """All files, source by source, in the order of their paths.

    Folders are searched with their subfolders; hidden files, and files whose name tells no format, are left out there.

    Args:
        sources: what to look for.
        format: of all files, whatever their names say; None goes by the names.

    Raises:
        InputError: nothing is found, a format is unknown, or one file comes twice.
        DownloadError: the hub cannot be reached.
    """
    files: list[CorpusFile] = []
    for index, source in enumerate(sources):
        if source.place.startswith(HUB_PREFIX):
            from outlex.calibration.hub_data import hub_files

            files += hub_files(source.place.removeprefix(HUB_PREFIX), source=index)
        else:
            files += [_local_file(path, source=index, format=format) for path in _local_paths(source, format)]
    seen: set[str] = set()
    for file in files:
        place = os.path.realpath(file.path) if "://" not in file.path else file.path
        if place in seen:
            raise InputError(
                "A file would be counted twice",
                got=f"{file.path}, found by {sources[file.source].given!r} and before",
                expected="every file once",
                next_step="leave one of the paths out, or make the pattern narrower",
            )
        seen.add(place)
    return files


def _local_paths(source: Source, format: Format | None) -> list[str]:
    place = os.path.expanduser(source.place)
    if os.path.isdir(place):
        found = [str(path) for path in Path(place).rglob("*") if _is_wanted(path.relative_to(place), path, format)]
        nothing = f"a folder without files that outlex can count ({_KNOWN})"
    elif os.path.exists(place):
        found, nothing = [place], ""
    elif glob.has_magic(place):
        found = [path for path in glob.glob(place, recursive=True) if os.path.isfile(path)]
        nothing = "a pattern that matches no file"
    else:
        found, nothing = [], "no such file"
    if not found:
        raise InputError(
            f"There is nothing to count in {source.given!r}",
            got=nothing,
            expected="a file, a folder, a pattern such as 'data/*.jsonl.gz', or hub:OWNER/NAME",
            next_step="check the path; put a pattern in quotes so that the shell leaves it alone",
        )
    return sorted(found)


def _is_wanted(inside: Path, path: Path, format: Format | None) -> bool:
    is_hidden = any(part.startswith(".") for part in inside.parts)
    return not is_hidden and path.is_file() and (format is not None or format_of(path.name)[0] is not None)


def _local_file(path: str, *, source: int, format: Format | None) -> CorpusFile:
    by_name, compression = format_of(path)
    chosen = format or by_name
    if chosen is None:
        raise InputError(
            f"The name of {path} does not tell what is in it",
            got=os.path.splitext(path)[1] or "no extension",
            expected=_KNOWN,
            next_step="say it with --format jsonl, --format parquet or --format text",
        )
    if chosen == "parquet" and compression is not None:
        raise InputError(
            f"{path} is a packed Parquet file, which cannot be read in parts",
            next_step="unpack it first; Parquet is already packed inside",
        )
    try:
        status = os.stat(path)
        with open(path, "rb") as stream:
            head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read", got=error.strerror, next_step="check the path and its permissions"
        ) from error
    return CorpusFile(
        source=source,
        path=path,
        format=chosen,
        compression=compression,
        n_bytes=status.st_size,
        identity=f"{status.st_mtime_ns}-{head}",
    )


def _stem(name: str) -> str:
    """The name without the ends that tell format and compression."""
    while os.path.splitext(name)[1].lower() in {*_FORMATS, *COMPRESSIONS}:
        name = os.path.splitext(name)[0]
    return name
