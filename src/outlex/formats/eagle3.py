"""EAGLE-3 drafters: `d2t` (offsets) and `t2d` (mask) among the weights, `draft_vocab_size` in `config.json`.

The same layout comes from SafeAILab and SpecForge, from ModelOpt's export (no `t2d`, rows hottest first) and from NeMo
Automodel (names with a leading `model.`). A file with the two tensors alone is what `write` makes.
"""

from __future__ import annotations

from typing import Any

from outlex.errors import ArtifactError
from outlex.formats.base import MapFile, Reading, WriteRequest, as_ids
from outlex.formats.source import Source
from outlex.formats.spelling import settle, target_mask
from outlex.formats.writing import write_file

__all__ = ["Eagle3", "head_rows", "read_draft_map", "whole"]

_AUTOMODEL = "LlamaEagle3DraftModel"
_UNFILLED = "vLLM and SGLang would take row i for token i"


class Eagle3:
    """A checkpoint directory, or one safetensors file with `d2t`."""

    name = "eagle3-d2t"
    suffixes = (".safetensors",)

    def recognise(self, source: Source) -> str | None:
        """`d2t` among the tensors, or a config with `draft_vocab_size`; speculators' layout is another format."""
        if "speculators_config" in source.config:
            return None
        if source.has_tensor("d2t"):
            return "a tensor d2t"
        return "draft_vocab_size in config.json" if "draft_vocab_size" in source.config else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """`d2t`, settled by `t2d` and the width in the config."""
        return read_draft_map(source, reading, name=self.name, layout=_layout(source))

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """One safetensors file with `d2t` int64 ``[n_draft]`` and `t2d` bool ``[n_target]``.

        `d2t` keeps the order of the rows; a checkpoint needs rows in that order in its `lm_head.weight`.
        """
        from safetensors.torch import save

        n_target = request.width_for(map_file, what=self.name)
        tensors = {"d2t": map_file.offsets, "t2d": map_file.target_mask(n_target)}
        write_file(request.output, bytes(save(tensors, metadata={"format": "pt"})))


def read_draft_map(source: Source, reading: Reading, *, name: str, layout: str) -> MapFile:
    """The map of a checkpoint with `d2t`, or the identity of one whose head is whole.

    Raises:
        ArtifactError: the map is missing, was never set, or does not belong to the head.
        VocabError: see `settle`.
    """
    where = str(source.path)
    width = reading.n_target or whole(source.text_setting("vocab_size"), what="vocab_size", where=where)
    n_draft = whole(source.config.get("draft_vocab_size"), what="draft_vocab_size", where=where)
    tensors = source.tensors
    mask = target_mask(tensors.tensor("t2d"), where=where) if "t2d" in tensors else None
    n_rows = head_rows(source)
    traps: list[str] = []
    if "d2t" in tensors:
        values = as_ids(tensors.tensor("d2t"), where=f"d2t in {where}")
        ids, spelling, why = settle(values, n_target=width, mask=mask, read_as=reading.read_as, where=f"d2t in {where}")
        if spelling == "absolute" and bool(values.any()):
            traps.append("d2t holds ids: vLLM, SGLang and llama.cpp's converter add the row to them, and get others")
    elif n_draft is not None and n_draft == width and mask is None:
        import torch

        ids, spelling, why = torch.arange(n_draft), "absolute", "no d2t: the head has a row for each target id"
    else:
        raise ArtifactError(
            f"{where} has lost its map: draft_vocab_size without d2t",
            got=f"{n_draft} draft rows, target width {width}; {_UNFILLED}",
            expected="d2t among the weights",
            next_step="export the drafter again, with d2t and t2d among its weights",
        )
    for found, what in ((n_draft, "draft_vocab_size in config.json"), (n_rows, "rows of lm_head.weight")):
        if found is not None and found != ids.numel():
            raise ArtifactError(
                f"The map of {where} does not belong to its head",
                got=f"{ids.numel()} entries in d2t, {found} {what}",
                expected="one entry for each row",
                next_step="export the drafter again, or correct the one that is wrong",
            )
    if mask is not None and width is not None and mask.numel() != width:
        traps.append(
            f"t2d is {mask.numel():,} wide and vocab_size {width:,}: padding of the head, if the tokenizer is the same"
        )
    if mask is None and "d2t" in tensors:
        traps.append("no t2d: nothing in the file proves that d2t is read as it was meant")
    return MapFile(
        format=name,
        path=source.path,
        ids=ids,
        n_target=width if width is not None else (None if mask is None else mask.numel()),
        spelling=spelling,
        settled_by="t2d marks the same ids" if mask is not None and reading.read_as is None else why,
        layout=layout,
        tensors={key: shape for key, shape in tensors.shapes.items() if key not in ("d2t", "t2d")},
        config=source.config,
        traps=tuple(traps),
    )


def head_rows(source: Source) -> int | None:
    """Rows of the draft head in the file; None if it shares the target's."""
    return source.tensors.rows.get("lm_head.weight")


def whole(value: Any, *, what: str, where: str) -> int | None:
    """A size from a config; None if it is not there.

    Raises:
        ArtifactError: it is no size.
    """
    if value is None or (type(value) is int and 1 <= value < 1 << 31):
        return value
    raise ArtifactError(
        f"{what} in the config of {where} is no size",
        got=f"{value!r:.60}",
        expected="a whole number above 0",
        next_step="correct config.json",
    )


def _layout(source: Source) -> str:
    architectures = source.config.get("architectures") or []
    if not source.config:
        return "d2t and t2d alone"
    if _AUTOMODEL in architectures:
        return "NeMo Automodel's EAGLE-3 checkpoint"
    if "eagle_config" in source.config:
        return "ModelOpt's EAGLE-3 checkpoint"
    return "EAGLE-3 checkpoint"
