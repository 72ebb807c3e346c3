"""The tensors of a checkpoint by name, without loading the weights: safetensors, shards with an index, or a pickle.

`pytorch_model.bin` is read by `outlex.formats.safe_torch`, so nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from outlex.errors import ArtifactError
from outlex.formats.safe_torch import load_safely

__all__ = ["INDEX", "TensorFiles", "find_tensor_files", "read_config"]

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLED = "pytorch_model.bin"
_WANTED = f"{_SINGLE}, {INDEX} or {_PICKLED}"


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorFiles:
    """Where each tensor is.

    Attributes:
        path: the file or directory.
        files: file of each tensor.
        shapes: dtype and shape of each tensor, in words.
        rows: first dimension of each tensor, 0 for a scalar.
    """

    path: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, str]
    rows: Mapping[str, int]
    _loaded: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def is_pickled(self) -> bool:
        """Whether they come from a pickle."""
        return bool(self._loaded)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU.

        Raises:
            ArtifactError: damaged, or not there.
        """
        if name in self._loaded:
            return self._loaded[name]
        if name not in self.files:
            raise ArtifactError(
                f"{self.path} has no tensor {name}",
                got=", ".join(sorted(self.files)[:5]) or "no tensors",
                expected=name,
                next_step="check that this is the drafter's own checkpoint",
            )
        with _opened(self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def find_tensor_files(path: Path) -> TensorFiles:
    """The tensors of a `.safetensors` file or of a checkpoint directory.

    Raises:
        ArtifactError: none there, or damaged.
    """
    if path.is_file():
        return _of_safetensors(path, {path})
    if (path / INDEX).is_file():
        weight_map = read_config(path / INDEX).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        plain = all(isinstance(name, str) and Path(name).name == name for name in names)
        if not names or not plain:
            raise ArtifactError(
                f"{path / INDEX} is damaged",
                got="no weight_map" if plain else "a file outside this directory",
                expected="the file of each tensor, all in this directory",
                next_step="copy the checkpoint again",
            )
        return _of_safetensors(path, {path / name for name in names})
    if (path / _SINGLE).is_file():
        return _of_safetensors(path, {path / _SINGLE})
    if (path / _PICKLED).is_file():
        return _of_pickle(path)
    raise ArtifactError(
        f"{path} has no weights",
        got=", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "an empty directory",
        expected=_WANTED,
        next_step="give the directory of the drafter's weights (NeMo Automodel keeps them in model/consolidated)",
    )


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ArtifactError: the file cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(value, dict):
        raise _damaged(path, f"a JSON {type(value).__name__}, not an object")
    return value


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    # TypeError, KeyError and RuntimeError: a header whose dtype or shape torch does not know
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise _damaged(path, error) from error


def _of_safetensors(path: Path, files: set[Path]) -> TensorFiles:
    where: dict[str, Path] = {}
    shapes: dict[str, str] = {}
    rows: dict[str, int] = {}
    for file_path in sorted(files):
        with _opened(file_path) as file:
            for name in file.keys():  # noqa: SIM118  (no mapping: it has only this method)
                if name in where:
                    raise _damaged(file_path, f"tensor {name!r:.60} is in {where[name].name} as well")
                part = file.get_slice(name)
                shape = list(part.get_shape())
                where[name], shapes[name], rows[name] = file_path, f"{part.get_dtype()} {shape}", (shape or [0])[0]
    return TensorFiles(path=path, files=where, shapes=shapes, rows=rows)


def _of_pickle(path: Path) -> TensorFiles:
    file = path / _PICKLED
    loaded = load_safely(file, expected="the weights of a drafter: tensors by name")
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items())
    ):
        raise _damaged(file, f"a {type(loaded).__name__} of something else than tensors by name")
    return TensorFiles(
        path=path,
        files=dict.fromkeys(loaded, file),
        shapes={name: f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in loaded.items()},
        rows={name: (list(t.shape) or [0])[0] for name, t in loaded.items()},
        _loaded=dict(loaded),
    )


def _damaged(path: Path, reason: object) -> ArtifactError:
    return ArtifactError(
        f"{path} is missing, cut off or damaged",
        got=str(reason).partition("\n")[0][:200],
        expected="a whole file, as it was written",
        next_step="copy or download it again",
    )
