"""A path that is asked by several formats: what is expensive to find out is found out once."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from outlex.artifact import MANIFEST
from outlex.errors import ArtifactError
from outlex.formats.safe_torch import load_safely
from outlex.formats.tensor_files import TensorFiles, find_tensor_files, read_config

__all__ = ["Source"]

_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


class Source:
    """A file or a directory, read as far as somebody asks.

    Args:
        path: it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def is_torch_file(self) -> bool:
        """Whether the name says `torch.save`."""
        return self.path.is_file() and self.path.suffix in _TORCH_SUFFIXES

    @cached_property
    def payload(self) -> Any:
        """What is in a file of `torch.save`; None for any other path.

        Raises:
            ArtifactError: see `load_safely`.
        """
        if not self.is_torch_file:
            return None
        return load_safely(self.path, expected="a list of token ids, a tensor of them, or a dict with d2t")

    @cached_property
    def is_checkpoint(self) -> bool:
        """Whether it is a directory with `config.json`, and no artifact of outlex."""
        return (self.path / "config.json").is_file() and not (self.path / MANIFEST).exists()

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json` of a checkpoint; empty for any other path.

        Raises:
            ArtifactError: damaged.
        """
        return read_config(self.path / "config.json") if self.is_checkpoint else {}

    @cached_property
    def tensors(self) -> TensorFiles:
        """The tensors of a checkpoint or of a `.safetensors` file.

        Raises:
            ArtifactError: none, or damaged.
        """
        return find_tensor_files(self.path)

    def has_tensor(self, name: str) -> bool:
        """Whether there is such a tensor; False where weights are missing or damaged.

        A damaged `.safetensors` file is nobody's, so its error goes to the caller.

        Raises:
            ArtifactError: a `.safetensors` file is damaged.
        """
        if self.path.suffix == ".safetensors" and self.path.is_file():
            return name in self.tensors
        if not self.is_checkpoint:
            return False
        try:
            return name in self.tensors
        except ArtifactError:
            return False  # another reader, of whole models, says it better

    def text_setting(self, name: str) -> object:
        """A setting of `config.json`, at the top or in the settings of the decoder layer."""
        layer = self.config.get("transformer_layer_config")
        nested = layer.get(name) if isinstance(layer, dict) else None
        return self.config.get(name, nested)
