"""A small artifact on disk: a directory with ``outlex.json`` and one safetensors file.

``outlex.json`` is the commit point. It names the tensor file by its sha256 and carries a checksum of
itself, so a reader gets exactly what was written, or an error. Writing goes: the tensors to a
temporary name, fsync, rename, directory sync; then ``outlex.json`` the same way; only then do files
that nothing refers to any more go away. A kill or a full disk at any point leaves the old artifact
readable. One writer at a time.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from outlex.atomic import TEMPORARY, make_directories, replace_file, sync_directory, undo
from outlex.errors import ArtifactError, InputError
from outlex.manifest import TENSOR_FILE, Manifest, damaged, manifest_bytes, parse_manifest

__all__ = ["MANIFEST", "Artifact", "check_destination", "read_artifact", "read_manifest", "write_artifact"]

MANIFEST = "outlex.json"
_READERS = {
    "sub-vocab": "pass it to 'outlex trim --tokens', or load it with SubVocab.load",
    "trimmed-drafter": "pass it to 'outlex generate --trimmed' or 'outlex bench --trimmed'",
    "fitted-head": "pass it to 'outlex generate --trimmed' or 'outlex bench --trimmed'",
}
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a directory held, already checked.

    Attributes:
        kind: what it is, for example ``"sub-vocab"``.
        config: the JSON object given to `write_artifact`, unchanged.
        tensors: CPU tensors by name.
        versions: versions of outlex, torch and python that wrote it.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    versions: dict[str, str]


def write_artifact(
    directory: str | os.PathLike[str], *, kind: str, config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Write an artifact, or replace one of the same kind, as one step that happens or does not.

    Args:
        directory: made if missing, parents included. See `check_destination` for what is refused.
        kind: a short name that the reader asks for.
        config: a JSON object: string keys; strings, finite numbers, booleans, ``None``, lists, objects.
        tensors: by name, any device; stored as contiguous CPU tensors. They pass through memory once
            more, so this is for megabytes.

    Raises:
        InputError: ``config`` or ``tensors`` cannot be stored exactly.
        ArtifactError: the directory is refused, or the disk refuses; the old artifact is still whole.
    """
    directory = Path(directory)
    blob = _tensor_bytes(tensors)
    digest = hashlib.sha256(blob).hexdigest()
    name = f"tensors-{digest[:12]}.safetensors"
    manifest = manifest_bytes(kind=kind, config=config, tensors={"bytes": len(blob), "name": name, "sha256": digest})
    check_destination(directory, kind=kind)
    made: list[Path] = []
    try:
        made = make_directories(directory)
        replace_file(directory / name, blob)
        # Otherwise a power cut could keep the new manifest and lose the file that it names.
        sync_directory(directory)
        replace_file(directory / MANIFEST, manifest)
        sync_directory(directory)
    except BaseException as error:
        # An interrupt can come after the last rename: what the manifest names must stay.
        if not _refers_to(directory, name):
            undo([directory / name], made)
        if isinstance(error, OSError):
            raise _disk_error(directory, error) from error
        raise
    _remove_unreferenced(directory, keep=name)


def read_artifact(directory: str | os.PathLike[str], *, kind: str | None) -> Artifact:
    """Read an artifact and check everything about it: format, kind, size and sha256.

    Args:
        directory: where `write_artifact` wrote.
        kind: the kind the caller can use; ``None`` accepts any.

    Raises:
        ArtifactError: something is missing, damaged, of another format or of another kind.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(
            f"{directory} holds another kind of artifact",
            got=manifest.kind,
            expected=kind,
            next_step=_READERS.get(manifest.kind, f"'outlex inspect {directory}' shows what it is"),
        )
    return Artifact(
        kind=manifest.kind,
        config=manifest.config,
        tensors=_read_tensors(directory / manifest.tensors["name"], manifest.tensors),
        versions=manifest.versions,
    )


def check_destination(directory: str | os.PathLike[str], *, kind: str) -> None:
    """Refuse a place that `write_artifact` must not touch, so that a long job can ask first.

    Allowed are a missing or empty directory, an artifact of the same kind, a damaged artifact, and
    what a killed first write left behind.

    Raises:
        ArtifactError: a file is in the way, or the directory holds something else.
    """
    directory = Path(directory)
    try:
        nearest = next(place for place in (directory, *directory.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise _refused(f"{nearest} is a file, not a directory")
        names = sorted(os.listdir(directory)) if nearest == directory else []
    except OSError as error:
        raise _disk_error(directory, error) from error
    found = _kind_at(directory) if MANIFEST in names else None
    if found is not None and found != kind:
        raise _refused(f"{directory} holds an artifact of another kind", got=found, expected=kind)
    ours = (MANIFEST, *(name for name in names if _is_leftover(name)))
    foreign = [name for name in names if name not in ours]
    # Files next to a readable artifact are none of our business: they stay as they are.
    if found is None and foreign:
        raise _refused(
            f"{directory} has other files in it and is not an outlex artifact",
            got=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            expected="a missing or empty directory, or an artifact to replace",
        )


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    from safetensors import SafetensorError
    from safetensors.torch import save

    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    try:
        for name, tensor in tensors.items():
            plain[name] = tensor.detach().cpu().contiguous()
            # The format has no notion of two names for one memory.
            if plain[name].untyped_storage().data_ptr() in storages:
                plain[name] = plain[name].clone()
            storages.add(plain[name].untyped_storage().data_ptr())
        return bytes(save(plain))
    except (AttributeError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(
            "The tensors cannot be stored as safetensors",
            got=error,
            expected="a dict of dense tensors by name",
            next_step="convert them to plain dense tensors of a common dtype",
        ) from error


def read_manifest(directory: str | os.PathLike[str]) -> Manifest:
    """What an artifact is and who wrote it, without its tensors, which stay unread and unchecked.

    Raises:
        ArtifactError: missing or damaged.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"No outlex artifact can be read at {directory}",
            got=f"{path}: {error.strerror}",
            expected=f"a directory with {MANIFEST} in it",
            next_step="check the path; 'outlex trim ... -o DIR' writes such a directory",
        ) from error
    return parse_manifest(path, data)


def _read_tensors(path: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    digest, n_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                n_bytes += len(chunk)
        if n_bytes == entry["bytes"] and digest.hexdigest() == entry["sha256"]:
            return dict(load_file(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise damaged(path, error, f"a safetensors file of {entry['bytes']} bytes") from error
    got = f"{n_bytes} bytes, sha256 {digest.hexdigest()}"
    raise damaged(path, got, f"{entry['bytes']} bytes, sha256 {entry['sha256']}")


def _kind_at(directory: Path) -> str | None:
    # Damaged counts as no artifact: writing it again is the remedy, unless other files are there.
    with suppress(ArtifactError):
        return read_manifest(directory).kind
    return None


def _refers_to(directory: Path, name: str) -> bool:
    try:
        return name.encode() in (directory / MANIFEST).read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # unknown, and a leftover does no harm


def _is_leftover(name: str) -> bool:
    return name.startswith(TEMPORARY) or TENSOR_FILE.fullmatch(name) is not None


def _remove_unreferenced(directory: Path, *, keep: str) -> None:
    # The new artifact is already safe, so what cannot be removed is no error; the next write tries again.
    with suppress(OSError):
        for name in os.listdir(directory):
            if name != keep and _is_leftover(name):
                with suppress(OSError):
                    (directory / name).unlink()


def _refused(what: str, *, got: object = None, expected: object = None) -> ArtifactError:
    return ArtifactError(what, got=got, expected=expected, next_step="choose another output directory with -o")


def _disk_error(directory: Path, error: OSError) -> ArtifactError:
    remedy = "free some disk space" if error.errno in _DISK_FULL else "check the permissions of the directory"
    return ArtifactError(
        f"Could not write the artifact to {directory}; what was there before is still whole",
        got=error,
        next_step=f"{remedy}, or choose another output directory with -o",
    )
