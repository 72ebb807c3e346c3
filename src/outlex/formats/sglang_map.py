"""SGLang's `--speculative-token-map` and FR-Spec's `freq_N.pt`: `torch.save` of a list of ids, hottest first."""

from __future__ import annotations

import io

import torch

from outlex.formats.base import MapFile, Reading, WriteRequest, as_ids
from outlex.formats.source import Source
from outlex.formats.writing import write_file

__all__ = ["SglangTokenMap"]


class SglangTokenMap:
    """A list is absolute ids: SGLang indexes the target's head with it as it is."""

    name = "sglang-token-map"
    suffixes = (".pt",)

    def recognise(self, source: Source) -> str | None:
        """A list in a file of `torch.save`."""
        return "a plain list in a file of torch.save" if isinstance(source.payload, list) else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The list, in its order."""
        return MapFile(
            format=self.name,
            path=source.path,
            ids=as_ids(source.payload, where=str(source.path)),
            n_target=reading.n_target,
            spelling="absolute",
            settled_by="SGLang takes the numbers of a list as ids",
            layout="SGLang and FR-Spec token map",
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """The list, in its order, as `torch.load(weights_only=True)` reads it."""
        stream = io.BytesIO()
        torch.save(map_file.ids.tolist(), stream)
        write_file(request.output, stream.getvalue())
