"""``outlex.json``: what an artifact directory holds, with a checksum over itself."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outlex.errors import ArtifactError, InputError

__all__ = ["FORMAT_VERSION", "TENSOR_FILE", "Manifest", "damaged", "manifest_bytes", "parse_manifest"]

FORMAT_VERSION = 1
TENSOR_FILE = re.compile(r"tensors-[0-9a-f]{12}\.safetensors")
_KEYS = {"checksum", "config", "format_version", "kind", "tensors", "versions"}
_TENSOR_KEYS = {"bytes", "name", "sha256"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``outlex.json``.

    Attributes:
        kind: what the artifact is.
        config: a JSON object.
        tensors: ``name``, ``bytes`` and ``sha256`` of the tensor file.
        versions: of outlex, torch and python, as strings.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Any]
    versions: dict[str, str]


def manifest_bytes(*, kind: str, config: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    """The file for these values.

    Raises:
        InputError: ``config`` is no JSON object, or would come back changed (tuples, NaN, int keys).
    """
    import torch

    from outlex import __version__

    try:
        exact = isinstance(config, dict) and json.loads(_canonical(config)) == config
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact or not isinstance(kind, str) or not kind:
        raise InputError(
            "The config of an artifact must survive a JSON round trip unchanged, and its kind be a name",
            got=f"kind {kind!r}, config {config!r:.200}",
            expected="a dict of string keys with strings, finite numbers, booleans, None, lists or dicts",
            next_step="turn tuples into lists, keys into strings, and NaN or infinity into None",
        )
    versions = {
        "outlex": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    manifest = Manifest(kind=kind, config=config, tensors=tensors, versions=versions)
    body = {"format_version": FORMAT_VERSION, **asdict(manifest)}
    body["checksum"] = hashlib.sha256(_canonical(body)).hexdigest()
    return json.dumps(body, indent=1, allow_nan=False).encode() + b"\n"


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """The manifest in ``data``, which was read from ``path``.

    Raises:
        ArtifactError: cut off, changed, of a newer format, or with keys or types that do not belong.
    """
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        canonical = {key: _canonical(value) for key, value in body.items()} if isinstance(body, dict) else {}
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON ({error})", "a JSON object") from error
    if not canonical:
        raise damaged(path, type(body).__name__, "a JSON object with entries")
    version = body.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has a format that this version of outlex cannot read",
            got=f"format_version {version}",
            expected=f"format_version {FORMAT_VERSION}",
            next_step="upgrade outlex: pip install --upgrade outlex",
        )
    if set(body) != _KEYS:
        odd = ", ".join(sorted(set(body) ^ _KEYS))
        raise damaged(path, f"unknown or missing keys: {odd:.200}", f"exactly {', '.join(sorted(_KEYS))}")
    checksum = body.pop("checksum")
    actual = hashlib.sha256(_canonical(body)).hexdigest()
    if checksum != actual:
        raise damaged(path, f"checksum {checksum!r:.80}", f"{actual}, which is what its contents give")
    if type(body.pop("format_version")) is not int or version != FORMAT_VERSION:
        raise damaged(path, f"format_version {version!r}", f"format_version {FORMAT_VERSION}")
    if not _well_typed(body):
        raise damaged(path, "values of the wrong type", "a kind, a config, versions and one tensor file")
    return Manifest(**body)


def damaged(path: Path, got: object, expected: object) -> ArtifactError:
    """The error for a file that is not, or not any more, what was written."""
    return ArtifactError(
        f"{path} is missing, truncated or damaged",
        got=got,
        expected=expected,
        next_step="copy it again from where it was made, or write it again with the command that made it",
    )


def _well_typed(body: dict[str, Any]) -> bool:
    versions, tensors = body["versions"], body["tensors"]
    return (
        isinstance(body["kind"], str)
        and isinstance(body["config"], dict)
        and isinstance(versions, dict)
        and all(isinstance(value, str) for value in versions.values())
        and isinstance(tensors, dict)
        and set(tensors) == _TENSOR_KEYS
        and type(tensors["bytes"]) is int
        and isinstance(tensors["sha256"], str)
        and isinstance(tensors["name"], str)
        # A plain name in the same directory: never a path that leads elsewhere.
        and TENSOR_FILE.fullmatch(tensors["name"]) is not None
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
