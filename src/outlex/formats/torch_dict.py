"""Dicts in a file of `torch.save`: maps that training programs keep beside their data.

NeMo Automodel stores `selected_token_ids` (ids, hottest first) and `target_vocab_size`; SpecForge stores `d2t`
(offsets) and `t2d` (mask), and a drafter's `pytorch_model.bin` has the same two among its weights.
"""

from __future__ import annotations

from outlex.errors import ArtifactError
from outlex.formats.base import MAX_IDS, MapFile, Reading, as_ids
from outlex.formats.source import Source
from outlex.formats.spelling import settle, target_mask

__all__ = ["AutomodelTokenMap", "MappingDict"]


class AutomodelTokenMap:
    """`{"selected_token_ids": ids, "target_vocab_size": N}`; Automodel calls the file what the user calls it."""

    name = "automodel-token-map"

    def recognise(self, source: Source) -> str | None:
        """Its key."""
        is_dict = isinstance(source.payload, dict)
        return "a dict with selected_token_ids" if is_dict and "selected_token_ids" in source.payload else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The ids, in their order."""
        width = source.payload.get("target_vocab_size")
        if width is not None and (type(width) is not int or not 1 <= width <= MAX_IDS):
            raise ArtifactError(
                f"target_vocab_size in {source.path} is no width of a head",
                got=f"{width!r:.60}",
                expected=f"a whole number from 1 to {MAX_IDS}",
                next_step="let NeMo Automodel write the file again",
            )
        return MapFile(
            format=self.name,
            path=source.path,
            ids=as_ids(source.payload["selected_token_ids"], where=f"selected_token_ids in {source.path}"),
            n_target=reading.n_target or width,
            spelling="absolute",
            settled_by="NeMo Automodel stores ids under selected_token_ids",
            layout="NeMo Automodel's token map",
            traps=("only NeMo Automodel reads this file; a checkpoint needs the map inside it (d2t and t2d)",),
        )


class MappingDict:
    """`{"d2t": offsets, "t2d": mask, ...}`."""

    name = "mapping-dict"

    def recognise(self, source: Source) -> str | None:
        """Its key."""
        is_dict = isinstance(source.payload, dict)
        return "a dict with d2t in a file of torch.save" if is_dict and "d2t" in source.payload else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """`d2t`, settled by `t2d` if it is there."""
        where = str(source.path)
        stored = source.payload.get("t2d")
        mask = None if stored is None else target_mask(stored, where=where)
        ids, spelling, why = settle(
            as_ids(source.payload["d2t"], where=f"d2t in {where}"),
            n_target=reading.n_target,
            mask=mask,
            read_as=reading.read_as,
            where=f"d2t in {where}",
        )
        return MapFile(
            format=self.name,
            path=source.path,
            ids=ids,
            n_target=reading.n_target or (None if mask is None else mask.numel()),
            spelling=spelling,
            settled_by=why,
            layout="SpecForge's vocabulary mapping, or a drafter's weights",
        )
