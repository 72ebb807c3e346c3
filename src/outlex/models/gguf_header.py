"""Reads the header of a GGUF file, and writes a copy of the file without its tokenizer.

The reader of the gguf package makes several numpy views for every string, which takes a quarter of a minute
for a vocabulary of 150,000 and its merges, and transformers runs it twice. This reader walks the same bytes
in a second; the copy gives transformers nothing long to read.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from outlex.errors import ArtifactError

__all__ = ["GgufHeader", "damaged_gguf", "read_header", "write_without_tokenizer"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
# struct format of each value type of fixed size
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONG_KEYS = {
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
}


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What stands before the weights.

    Attributes:
        metadata: keys and values.
        n_weights: elements of all tensors together.
        version: of the format.
        n_tensors: entries of the tensor table.
        spans: bytes [from, to) of each key with its value.
        table_span: bytes [from, to) of the tensor table.
        data_start: where the weights begin.
    """

    metadata: Mapping[str, Any]
    n_weights: int
    version: int
    n_tensors: int
    spans: Mapping[str, tuple[int, int]]
    table_span: tuple[int, int]
    data_start: int

    @property
    def alignment(self) -> int:
        """The weights begin at a multiple of this."""
        return int(self.metadata.get("general.alignment", _DEFAULT_ALIGNMENT))


class _Cursor:
    """A position in the bytes that moves with each read and never past their end."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob = blob
        self.position = 0

    def number(self, letter: str) -> Any:
        """One little-endian number; `letter` as in struct."""
        return self.numbers(1, letter)[0]

    def numbers(self, n: int, letter: str) -> tuple[Any, ...]:
        """`n` of them."""
        layout = f"<{n}{letter}"
        values = struct.unpack_from(layout, self.blob, self.position)
        self.position += struct.calcsize(layout)
        return values

    def string(self) -> str:
        """A length and as many bytes of UTF-8."""
        n_bytes = self.number("Q")
        end = self.position + n_bytes
        if end > len(self.blob):
            raise ValueError("a string runs past the end")
        # a token may be a piece of a character
        text = self.blob[self.position : end].decode("utf-8", errors="replace")
        self.position = end
        return text

    def value(self, kind: int) -> Any:
        """A value of one of the format's types, arrays included."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"unknown value type {kind}")
        item_kind, n_items = self.number("I"), self.number("Q")
        if n_items > len(self.blob) - self.position:
            raise ValueError(f"an array of {n_items} items runs past the end")
        if item_kind in _SCALARS:
            return list(self.numbers(n_items, _SCALARS[item_kind]))
        return [self.value(item_kind) for _ in range(n_items)]


def read_header(path: Path) -> GgufHeader:
    """Read and check everything before the weights, and that the weights are all there.

    Raises:
        ArtifactError: the file is no GGUF file, truncated or damaged.
    """
    with path.open("rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                header, data_end = _parse(_Cursor(blob))
        except (struct.error, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise damaged_gguf(path, error) from error
    n_bytes = path.stat().st_size
    if data_end > n_bytes:
        raise damaged_gguf(path, f"{n_bytes} bytes, but its weights end at {data_end}")
    if "general.architecture" not in header.metadata or not header.n_weights:
        raise damaged_gguf(path, "no architecture or no weights in it")
    return header


def _parse(cursor: _Cursor) -> tuple[GgufHeader, int]:
    if cursor.blob[:4] != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    cursor.position = len(_MAGIC)
    version, n_tensors, n_keys = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in _VERSIONS:
        raise ValueError(f"GGUF version {version}, expected 2 or 3 (little-endian)")
    metadata: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_keys):
        start = cursor.position
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
        spans[key] = (start, cursor.position)
    table_start = cursor.position
    n_weights = end = 0
    for _ in range(n_tensors):
        n_elements, tensor_end = _table_entry(cursor)
        n_weights += n_elements
        end = max(end, tensor_end)
    alignment = int(metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    if alignment < 1:
        raise ValueError(f"weights aligned to {alignment} bytes")
    data_start = -(-cursor.position // alignment) * alignment
    header = GgufHeader(
        metadata=metadata,
        n_weights=n_weights,
        version=version,
        n_tensors=n_tensors,
        spans=spans,
        table_span=(table_start, cursor.position),
        data_start=data_start,
    )
    return header, data_start + end


def _table_entry(cursor: _Cursor) -> tuple[int, int]:
    """Elements of one tensor, and where its bytes end after the start of the weights."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    cursor.string()
    n_dimensions = cursor.number("I")
    shape = cursor.numbers(n_dimensions, "Q")
    kind, offset = cursor.number("I"), cursor.number("Q")
    block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    n_elements = prod(shape)
    return n_elements, offset + n_elements // block_elements * block_bytes


def write_without_tokenizer(path: Path, header: GgufHeader, *, to: Path) -> None:
    """Copy a GGUF file, leaving out vocabulary and merges. Weights and all other keys stay as they are."""
    kept = [span for key, span in header.spans.items() if key not in _LONG_KEYS]
    with path.open("rb") as source, to.open("wb") as sink:
        sink.write(struct.pack("<4sIQQ", _MAGIC, header.version, header.n_tensors, len(kept)))
        for start, end in (*kept, header.table_span):
            source.seek(start)
            sink.write(source.read(end - start))
        sink.write(bytes(-sink.tell() % header.alignment))
        source.seek(header.data_start)
        while chunk := source.read(1 << 24):
            sink.write(chunk)


def damaged_gguf(path: Path, reason: object) -> ArtifactError:
    """The error for a GGUF file that cannot be whole."""
    return ArtifactError(
        "the GGUF file is truncated or damaged",
        got=f"{path} ({os.path.getsize(path)} bytes): {reason}",
        expected="a whole GGUF file, version 2 or 3",
        next_step="copy or download it again",
    )
