"""The speculators library: checkpoints with `speculators_config`, and `d2t.npy` with `t2d.npy` for its trainer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from outlex.errors import ArtifactError
from outlex.formats.base import MapFile, Reading, WriteRequest, as_ids
from outlex.formats.eagle3 import read_draft_map
from outlex.formats.source import Source
from outlex.formats.spelling import settle, target_mask
from outlex.formats.writing import write_directory

__all__ = ["Speculators"]

_D2T, _T2D = "d2t.npy", "t2d.npy"
_UNORDERED = "rows are not in the order of their ids, in which speculators fills the rows of a new head"


class Speculators:
    """Offsets and mask, as in EAGLE-3; the width of the target stands in `transformer_layer_config`."""

    name = "speculators"
    suffixes = ()

    def recognise(self, source: Source) -> str | None:
        """Its part of the config, or the two arrays that `train.py` takes."""
        if "speculators_config" in source.config:
            return "speculators_config in config.json"
        both = (source.path / _D2T).is_file() and (source.path / _T2D).is_file()
        return f"{_D2T} and {_T2D}" if both else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The map of a checkpoint, or of the two arrays."""
        if source.is_checkpoint:
            found = read_draft_map(source, reading, name=self.name, layout="speculators checkpoint")
            return found if found.is_ascending else replace(found, traps=(_UNORDERED, *found.traps))
        mask = target_mask(_array(source.path / _T2D), where=str(source.path / _T2D))
        ids, spelling, why = settle(
            as_ids(_array(source.path / _D2T), where=str(source.path / _D2T)),
            n_target=reading.n_target,
            mask=mask,
            read_as=reading.read_as,
            where=str(source.path / _D2T),
        )
        return MapFile(
            format=self.name,
            path=source.path,
            ids=ids,
            n_target=reading.n_target or mask.numel(),
            spelling=spelling,
            settled_by="t2d marks the same ids" if reading.read_as is None else why,
            layout="vocabulary mapping for speculators' train.py",
            traps=() if bool((ids[1:] > ids[:-1]).all()) else (_UNORDERED,),
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """A directory with `d2t.npy` int64 ``[n_draft]`` and `t2d.npy` bool ``[n_target]``, ids ascending.

        speculators takes head rows by the mask, that is in the order of their ids, so the order of ranks is given up.
        """
        import numpy as np

        n_target = request.width_for(map_file, what=self.name)
        ids = map_file.ids.sort().values
        arrays = {_D2T: (ids - torch.arange(ids.numel())).numpy(), _T2D: map_file.target_mask(n_target).numpy()}

        def fill(folder: Path) -> None:
            for name, array in arrays.items():
                stream = io.BytesIO()
                np.save(stream, array, allow_pickle=False)
                (folder / name).write_bytes(stream.getvalue())

        write_directory(request.output, fill)


def _array(path: Path) -> Tensor:
    import numpy as np

    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            return torch.from_numpy(np.ascontiguousarray(array))
    # numpy parses the header as a Python literal, and damaged bytes make that raise nearly anything
    except Exception as error:
        raise ArtifactError(
            f"{path} is no array of plain numbers, or is cut off",
            got=f"{type(error).__name__}: {error}".partition("\n")[0][:200],
            expected="what numpy.save writes, without objects",
            next_step="let speculators write it again; an array of objects is never loaded, it could run any code",
        ) from error
