"""Frozen objects made of tensors and settings: taken apart for storage, put together again, moved between devices.

An artifact stores a JSON object and named tensors. A `Parts` object gives both (`to_parts`), and one that holds others
gives theirs as well: the config nests, the names of the tensors get a prefix.

    Mixed(inner=Learned(ids, weights), ...)   config   {"kind": "mixed", "inner": {"kind": "learned", ...}, ...}
                                              tensors  inner.ids, inner.weights
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from outlex.errors import ArtifactError, OutlexError

__all__ = ["Parts"]

P = TypeVar("P", bound="Parts")


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Base of frozen dataclasses whose fields are tensors, `Parts`, None, or JSON values with tuples for lists.

    A class that can be stored sets `kind`, a name of its own. Fields with `init=False` are derived and not stored.
    """

    kind: ClassVar[str] = ""
    _classes: ClassVar[dict[str, type[Parts]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            Parts._classes[cls.kind] = cls

    def to_parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Config (a JSON object) and tensors (on the CPU), to store alone or inside an artifact."""
        config: dict[str, Any] = {"kind": self.kind}
        tensors: dict[str, Tensor] = {}
        for name, value in _values(self).items():
            if isinstance(value, Tensor):
                tensors[name] = value.detach().cpu().contiguous()
            elif isinstance(value, Parts):
                config[name], inner = value.to_parts()
                tensors |= {f"{name}.{key}": tensor for key, tensor in inner.items()}
            else:
                config[name] = _listed(value)
        return config, tensors

    @classmethod
    def from_parts(cls: type[P], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> P:
        """What `to_parts` gave.

        Raises:
            ArtifactError: parts missing, too many, of another kind, or not those of a valid object.
        """
        left = dict(tensors)
        try:
            restored = _restored(config, left, "")
        except (KeyError, TypeError, AttributeError, ValueError, OutlexError) as error:
            raise _invalid(cls, f"{type(error).__name__}: {error}") from error
        if not isinstance(restored, cls):
            raise _invalid(cls, f"a {restored.kind!r}")
        if left:
            raise _invalid(cls, f"tensors {sorted(left)} too many")
        return restored

    @property
    def device(self) -> torch.device:
        """Where its tensors are; the CPU if it has none."""
        for value in _values(self).values():
            if isinstance(value, (Tensor, Parts)):
                return value.device
        return torch.device("cpu")

    def to(self: P, device: torch.device | str) -> P:
        """The same object with its tensors on `device`."""
        moved = {name: value.to(device) for name, value in _values(self).items() if isinstance(value, (Tensor, Parts))}
        return replace(self, **moved)


def _values(parts: Parts) -> dict[str, Any]:
    return {field.name: getattr(parts, field.name) for field in fields(parts) if field.init}


def _restored(config: Mapping[str, Any], left: dict[str, Tensor], prefix: str) -> Parts:
    """Build the object of `config`; the tensors it takes are removed from `left`."""
    kind = Parts._classes[config["kind"]]
    names = {field.name for field in fields(kind) if field.init}
    if unknown := sorted(set(config) - names - {"kind"}):
        raise KeyError(f"unknown settings {unknown}")
    values: dict[str, Any] = {}
    for name in names:
        if name not in config:
            values[name] = left.pop(prefix + name)
        elif isinstance(config[name], Mapping):
            values[name] = _restored(config[name], left, f"{prefix}{name}.")
        else:
            values[name] = _tupled(config[name])
    return kind(**values)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def _invalid(cls: type[Parts], got: str) -> ArtifactError:
    return ArtifactError(
        f"The stored parts are not those of a {cls.__name__}",
        got=f"{got:.300}",
        expected="what to_parts gave",
        next_step="fit it again; if that is no remedy, the artifact was written by another version of outlex",
    )
