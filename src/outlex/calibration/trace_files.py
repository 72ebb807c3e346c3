"""A traces directory on disk: `trace.json`, the commit point, and the shards that it names.

A shard is written whole, then `trace.json` names it with its sha256. A kill between the two leaves a file that nothing
refers to; the next run writes over it.
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from outlex.atomic import TEMPORARY, make_directories, replace_file, sync_directory
from outlex.calibration.trace_records import ShardEntry, TracedPrompt, TraceHeader, header_bytes, parse_header
from outlex.errors import ArtifactError

__all__ = ["TENSORS", "add_shard", "find_header", "prepare_directory", "read_header", "read_shard"]

TENSORS = ("target_hidden", "drafter_hidden", "token_ids", "prompt_index", "position", "prompt_ids", "prompt_top")
_HEADER = "trace.json"
_AGAIN = "copy the directory again from where it was made, or trace again into a new one"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def read_header(directory: Path) -> TraceHeader:
    """What `trace.json` says.

    Raises:
        ArtifactError: missing, truncated, changed or of another version.
    """
    path = directory / _HEADER
    try:
        return parse_header(path.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"No traces can be read at {directory}",
            got=f"{path}: {error.strerror}",
            expected=f"a directory with {_HEADER} in it",
            next_step="check the path; `outlex trace ... -o DIR` writes such a directory",
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is truncated or damaged",
            got=f"{type(error).__name__}: {error}",
            expected="what `outlex trace` wrote",
            next_step=_AGAIN,
        ) from error


def find_header(directory: Path) -> TraceHeader | None:
    """The header of traces that may be continued; None where there are none yet.

    Raises:
        ArtifactError: `trace.json` is damaged, or the directory holds something else.
    """
    if (directory / _HEADER).exists():
        return read_header(directory)
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise _refused(directory, "a file")
    foreign = [name for name in sorted(os.listdir(directory)) if not _is_ours(name)]
    if foreign:
        raise _refused(directory, ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""))
    return None


def prepare_directory(directory: Path, header: TraceHeader) -> None:
    """Make the directory, write the header, and remove what a killed run left behind.

    Raises:
        ArtifactError: the disk refuses.
    """
    named = {_HEADER, *(shard.name for shard in header.shards)}
    try:
        make_directories(directory)
        replace_file(directory / _HEADER, header_bytes(header))
        sync_directory(directory)
        for name in os.listdir(directory):
            if _is_ours(name) and name not in named:
                with suppress(OSError):
                    (directory / name).unlink()
    except OSError as error:
        raise _disk_error(directory, error) from error


def add_shard(
    directory: Path, header: TraceHeader, tensors: dict[str, Tensor], prompts: tuple[TracedPrompt, ...]
) -> TraceHeader:
    """Write one more shard and the header that names it; returns that header.

    Args:
        directory: prepared.
        header: as it is on the disk.
        tensors: `TENSORS`, on the CPU, contiguous.
        prompts: whose rows these are.

    Raises:
        ArtifactError: the disk refuses; what was committed before is still whole.
    """
    from safetensors.torch import save

    data = save({name: tensors[name] for name in TENSORS})
    entry = ShardEntry(
        name=f"shard-{len(header.shards):05d}.safetensors",
        n_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        n_positions=int(tensors["token_ids"].shape[0]),
    )
    longer = header.with_shard(entry, prompts)
    try:
        replace_file(directory / entry.name, data)
        # Otherwise a power cut could keep the header and lose the shard that it names.
        sync_directory(directory)
        replace_file(directory / _HEADER, header_bytes(longer))
        sync_directory(directory)
    except OSError as error:
        raise _disk_error(directory, error) from error
    return longer


def read_shard(directory: Path, entry: ShardEntry) -> dict[str, Tensor]:
    """The tensors of one shard, mapped into memory.

    Raises:
        ArtifactError: missing, truncated or changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / entry.name
    digest, n_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                n_bytes += len(chunk)
        if (n_bytes, digest.hexdigest()) == (entry.n_bytes, entry.sha256):
            tensors = load_file(path)
            return {name: tensors[name] for name in TENSORS}
        got: object = f"{n_bytes} bytes, sha256 {digest.hexdigest()[:12]}"
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        got = error
    raise ArtifactError(
        f"{path} is missing, truncated or damaged",
        got=got,
        expected=f"{entry.n_bytes} bytes, sha256 {entry.sha256[:12]}",
        next_step=_AGAIN,
    )


def _is_ours(name: str) -> bool:
    return (
        name == _HEADER or name.startswith(TEMPORARY) or (name.startswith("shard-") and name.endswith(".safetensors"))
    )


def _refused(directory: Path, got: str) -> ArtifactError:
    return ArtifactError(
        f"{directory} is not a place for traces",
        got=got,
        expected="a missing or empty directory, or traces to continue",
        next_step="choose another output directory with -o",
    )


def _disk_error(directory: Path, error: OSError) -> ArtifactError:
    remedy = "free some disk space" if error.errno in _DISK_FULL else "check the permissions of the directory"
    return ArtifactError(
        f"The traces cannot be written to {directory}; what was committed before is still whole",
        got=error,
        next_step=f"{remedy}, then run the same command again: it goes on where it stopped",
    )
