"""llama.cpp: an int64 tensor `d2t` of absolute ids in the GGUF file of an EAGLE-3 or DFlash drafter.

llama.cpp's converter adds the rows to EAGLE-3's offsets when it writes the file; llama.cpp takes the numbers as ids.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from outlex.errors import ArtifactError, VocabError
from outlex.formats.base import MAX_IDS, MapFile, Reading, WriteRequest, unusable
from outlex.formats.source import Source
from outlex.formats.spelling import settle
from outlex.formats.writing import write_file
from outlex.models.gguf import require_gguf
from outlex.models.gguf_header import GgufHeader, damaged_gguf, read_header

__all__ = ["GgufMap"]

_TENSOR = "d2t"
_I32, _I64 = 26, 27
_N_SNIFFED = 4


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One row of the tensor table."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class GgufMap:
    """A GGUF file with `d2t`. Written is a file with the map alone: whole drafters come from llama.cpp's converter."""

    name = "gguf"
    suffixes = (".gguf",)

    def recognise(self, source: Source) -> str | None:
        """The tensor's name in the table; a GGUF file without it is a model."""
        if not source.path.is_file() or not _is_gguf(source.path):
            return None
        try:
            return (
                f"a tensor {_TENSOR} in a GGUF file" if _TENSOR in _table(source.path, _header(source.path)) else None
            )
        except ArtifactError:
            return None if source.path.suffix == ".gguf" else "a file that begins with GGUF"

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The ids, in their order."""
        path = source.path
        header = _header(path)
        table = _table(path, header)
        if _TENSOR not in table:
            raise damaged_gguf(path, f"no tensor {_TENSOR}")
        values = _numbers(path, header, table[_TENSOR])
        width = reading.n_target or _width(header, table)
        spelling = reading.read_as or "absolute"
        try:
            ids, spelling, why = settle(values, n_target=width, mask=None, read_as=spelling, where=f"d2t in {path}")
        except VocabError as error:
            offsets = values + torch.arange(values.numel())
            if reading.read_as is None and unusable(offsets, n_target=width) is None:
                raise VocabError(
                    f"d2t in {path} holds offsets, and llama.cpp would take them as ids",
                    got=error.got,
                    expected="absolute ids",
                    next_step="convert the drafter again with llama.cpp's converter, or read it with --read-as offsets",
                ) from error
            raise
        head = table.get("output.weight")
        if head is not None and len(head.shape) == 2 and head.shape[1] != ids.numel():
            raise damaged_gguf(path, f"{ids.numel()} entries in d2t, {head.shape[1]} rows in output.weight")
        traps = []
        if table[_TENSOR].kind != _I64:
            traps.append("d2t is no int64: llama.cpp refuses it")
        if spelling == "offsets":
            traps.append("d2t holds offsets: llama.cpp would take them as ids")
        return MapFile(
            format=self.name,
            path=path,
            ids=ids,
            n_target=width,
            spelling=spelling,
            settled_by="llama.cpp takes d2t as ids" if reading.read_as is None else why,
            layout=f"GGUF, architecture {header.metadata['general.architecture']}",
            tensors={
                name: f"type {entry.kind} {list(entry.shape)}" for name, entry in table.items() if name != _TENSOR
            },
            traps=tuple(traps),
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """A GGUF file with `d2t` int64 ``[n_draft]`` and the width in `eagle3.vocab_size`, without weights."""
        require_gguf()
        from gguf import GGUFWriter

        n_target = request.width_for(map_file, what=self.name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "map.gguf"
            writer = GGUFWriter(path, "eagle3")
            writer.add_vocab_size(n_target)
            writer.add_tensor(_TENSOR, map_file.ids.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            data = path.read_bytes()
        write_file(request.output, data)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_N_SNIFFED) == b"GGUF"


def _header(path: Path) -> GgufHeader:
    require_gguf()
    try:
        return read_header(path)
    # nested arrays without end, an alignment of 0 or of another type, counts beyond the memory
    except (RecursionError, ArithmeticError, TypeError, MemoryError) as error:
        raise damaged_gguf(path, error) from error


def _table(path: Path, header: GgufHeader) -> dict[str, _Entry]:
    start, end = header.table_span
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    table: dict[str, _Entry] = {}
    position = 0
    # every length was checked by `read_header`, which walked the same bytes
    while position < len(data):
        (n_bytes,) = struct.unpack_from("<Q", data, position)
        name = data[position + 8 : position + 8 + n_bytes].decode("utf-8", errors="replace")
        position += 8 + n_bytes
        (n_dimensions,) = struct.unpack_from("<I", data, position)
        shape = struct.unpack_from(f"<{n_dimensions}Q", data, position + 4)
        position += 4 + 8 * n_dimensions
        kind, offset = struct.unpack_from("<IQ", data, position)
        position += 12
        if name in table:
            raise damaged_gguf(path, f"tensor {name!r:.60} twice")
        table[name] = _Entry(shape=shape, kind=kind, offset=offset)
    return table


def _numbers(path: Path, header: GgufHeader, entry: _Entry) -> Tensor:
    n = 1
    for size in entry.shape:
        n *= size
    if entry.kind not in (_I32, _I64) or max(entry.shape, default=0) != n or not 1 <= n <= MAX_IDS:
        raise damaged_gguf(path, f"d2t of type {entry.kind} and shape {list(entry.shape)}, not a row of int64 or int32")
    dtype = torch.int64 if entry.kind == _I64 else torch.int32
    n_bytes = n * dtype.itemsize
    with path.open("rb") as file:
        file.seek(header.data_start + entry.offset)
        data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise damaged_gguf(path, "d2t ends beyond the file")
    return torch.frombuffer(bytearray(data), dtype=dtype).to(torch.int64)


def _width(header: GgufHeader, table: dict[str, _Entry]) -> int | None:
    """Rows of the target's head: of the embeddings if they are here, else as the keys say."""
    embeddings = table.get("token_embd.weight")
    if embeddings is not None and len(embeddings.shape) == 2:
        return _sane(embeddings.shape[1])
    size = header.metadata.get(f"{header.metadata['general.architecture']}.vocab_size")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return _sane(size if type(size) is int else len(tokens) if isinstance(tokens, list) else None)


def _sane(width: int | None) -> int | None:
    return width if width is not None and 1 <= width <= MAX_IDS else None
