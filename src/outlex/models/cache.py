"""Where downloaded and converted models lie, and what protects them.

    $OUTLEX_CACHE, or ~/.cache/outlex when it is not set
    ├── gguf/NAME.gguf                            a catalogue model, assembled, its sha256 checked
    ├── parts/NAME/02-SHA256.part                 a finished part of a download that is still under way
    ├── converted/NAME-SHA256_16-DTYPE-vN/        a GGUF as a transformers directory
    ├── stamps/PATH_HASH.json                     size, mtime and sha256 of a file that was hashed once
    └── locks/NAME.lock                           one process at a time assembles or converts NAME

Everything in it can be deleted at any time: it is fetched or made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outlex.errors import ArtifactError
from outlex.models.progress import Reporter

__all__ = ["cache_root", "exclusive", "file_sha256", "make_folder", "record_sha256", "stamped_sha256"]

_CHUNK_BYTES = 1 << 22


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder: the argument, or `$OUTLEX_CACHE`, or `~/.cache/outlex`. It need not exist yet."""
    chosen = cache_dir or os.environ.get("OUTLEX_CACHE") or Path("~") / ".cache" / "outlex"
    return Path(chosen).expanduser().absolute()


def make_folder(folder: Path) -> Path:
    """Create a folder of the cache and return it.

    Raises:
        ArtifactError: the folder cannot be created or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise _unwritable(folder, "no permission to write")
    return folder


def _unwritable(folder: Path, reason: object) -> ArtifactError:
    return ArtifactError(
        "the model cache cannot be written",
        got=f"{folder} ({reason})",
        expected="a folder that this user may write",
        next_step="set OUTLEX_CACHE (or cache_dir=) to such a folder",
    )


@contextmanager
def exclusive(lock_path: Path, *, what: str, report: Reporter) -> Iterator[None]:
    """Hold a lock file, waiting for the process that has it. A lock ends with its process, even if killed."""
    from filelock import FileLock, Timeout

    make_folder(lock_path.parent)
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.note(f"{what}: another process is at work on it, waiting (lock {lock_path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's contents."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def stamped_sha256(path: Path, *, root: Path) -> str:
    """sha256 of a file, from its stamp when size and modification time have not changed since, else computed.

    Hashing a file of 1 GB takes seconds at every start; a stamp takes none. The stamp lies in the cache, so
    files in folders that cannot be written have one too.
    """
    try:
        stamp = json.loads(_stamp_path(path, root=root).read_text(encoding="utf-8"))
        if stamp["state"] == _state(path):
            return str(stamp["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no stamp, or not one of ours: the full hash below replaces it
    sha256 = file_sha256(path)
    record_sha256(path, sha256, root=root)
    return sha256


def record_sha256(path: Path, sha256: str, *, root: Path) -> None:
    """Write the stamp of a file whose sha256 is known. Without a stamp only time is lost."""
    stamp_path = _stamp_path(path, root=root)
    stamp = {"path": str(path), "state": _state(path), "sha256": sha256}
    partial = stamp_path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        stamp_path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(stamp), encoding="utf-8")
        os.replace(partial, stamp_path)
    except OSError:
        partial.unlink(missing_ok=True)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _stamp_path(path: Path, *, root: Path) -> Path:
    return root / "stamps" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
