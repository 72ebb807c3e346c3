"""A bare tensor in a file of `torch.save`. Two programs write it and mean different things.

ModelOpt's `calibrate_draft_vocab.py` saves `d2t.pt`: offsets, hottest first. Others save the tensor of a token map,
which SGLang takes as ids. Only the numbers can tell.
"""

from __future__ import annotations

from outlex.formats.base import MapFile, Reading, as_ids
from outlex.formats.source import Source
from outlex.formats.spelling import settle

__all__ = ["TorchTensor"]


class TorchTensor:
    """Read only: what is written should say what it is."""

    name = "torch-tensor"

    def recognise(self, source: Source) -> str | None:
        """A tensor in a file of `torch.save`."""
        import torch

        return "a bare tensor in a file of torch.save" if isinstance(source.payload, torch.Tensor) else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The numbers, read as whatever they can only be."""
        ids, spelling, why = settle(
            as_ids(source.payload, where=str(source.path)),
            n_target=reading.n_target,
            mask=None,
            read_as=reading.read_as,
            where=str(source.path),
        )
        layout = "token map as a tensor" if spelling == "absolute" else "ModelOpt's d2t.pt"
        traps = ("SGLang would take these offsets as ids",) if spelling == "offsets" else ()
        return MapFile(
            format=self.name,
            path=source.path,
            ids=ids,
            n_target=reading.n_target,
            spelling=spelling,
            settled_by=why,
            layout=layout,
            traps=traps,
        )
