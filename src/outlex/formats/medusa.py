"""Medusa heads in vLLM: absolute ids in a tensor `token_map`, and `truncated_vocab_size` in the config."""

from __future__ import annotations

from outlex.errors import ArtifactError
from outlex.formats.base import MapFile, Reading, WriteRequest, as_ids
from outlex.formats.eagle3 import whole
from outlex.formats.source import Source
from outlex.formats.writing import write_file

__all__ = ["Medusa"]

_TENSOR = "token_map"


class Medusa:
    """A checkpoint directory, or one safetensors file with `token_map`."""

    name = "medusa-token-map"
    suffixes = (".safetensors",)

    def recognise(self, source: Source) -> str | None:
        """The tensor, or the config's promise of one."""
        if source.has_tensor(_TENSOR):
            return f"a tensor {_TENSOR}"
        return "truncated_vocab_size in config.json" if "truncated_vocab_size" in source.config else None

    def read(self, source: Source, reading: Reading) -> MapFile:
        """The ids, in their order."""
        where = str(source.path)
        ids = as_ids(source.tensors.tensor(_TENSOR), where=f"{_TENSOR} in {where}")
        width = reading.n_target or whole(source.config.get("vocab_size"), what="vocab_size", where=where)
        kept = whole(source.config.get("truncated_vocab_size"), what="truncated_vocab_size", where=where)
        if kept is not None and kept != ids.numel():
            raise ArtifactError(
                f"{_TENSOR} of {where} does not belong to its config",
                got=f"{ids.numel()} ids, truncated_vocab_size {kept}",
                expected="as many ids as truncated_vocab_size says",
                next_step="correct truncated_vocab_size, or take the map that the heads were cut by",
            )
        traps = []
        if source.is_checkpoint and (kept is None or kept == width):
            traps.append("truncated_vocab_size is not below vocab_size: vLLM would leave token_map unread")
        return MapFile(
            format=self.name,
            path=source.path,
            ids=ids,
            n_target=width,
            spelling="absolute",
            settled_by="vLLM indexes the target's logits with token_map as it is",
            layout="Medusa checkpoint" if source.is_checkpoint else "token_map alone",
            tensors={key: shape for key, shape in source.tensors.shapes.items() if key != _TENSOR},
            config=source.config,
            traps=tuple(traps),
        )

    def write(self, map_file: MapFile, request: WriteRequest) -> None:
        """One safetensors file with `token_map` int64 ``[n_draft]``, to be added to the checkpoint of the heads."""
        from safetensors.torch import save

        write_file(request.output, bytes(save({_TENSOR: map_file.ids}, metadata={"format": "pt"})))
