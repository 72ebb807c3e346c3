"""What to count, and how: checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from outlex.calibration.blocks import BLOCK_BYTES
from outlex.calibration.corpus import Format, Source
from outlex.errors import InputError

__all__ = ["CountConfig", "check_weights"]


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    """What to count and how.

    Attributes:
        sources: ``PATH``, ``DOMAIN=PATH`` or ``hub:OWNER/NAME[/CONFIG][:SPLIT]``; a path can be a folder or a pattern.
        weights: by domain, see `TokenStats.total`; 1 for those not named.
        format: of all files; None goes by their names.
        text_field: the field with the text; None tries ``messages``, ``text`` and ``prompt``.
        domain_field: the field that names a record's domain, unless its source does.
        chats: "template" counts what the model has to emit by its chat template, end-of-turn token included; "content"
            counts the assistant's contents alone.
        on_error: "stop" at a record or file that cannot be used, or "skip" and say how many.
        workers: processes; None takes every core this process may use, or this process alone for a small corpus.
        backend: "local" or "ray".
        ray_address: of the cluster; None uses RAY_ADDRESS, or starts one on this machine.
        checkpoint_every_s: seconds between checkpoints, at least; longer where writing one takes long.
        block_bytes: size of a unit of work.

    Raises:
        InputError: no source, or a value that is none of these.
    """

    sources: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    format: Format | None = None
    text_field: str | None = None
    domain_field: str = "domain"
    chats: Literal["template", "content"] = "template"
    on_error: Literal["stop", "skip"] = "stop"
    workers: int | None = None
    backend: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    checkpoint_every_s: float = 10.0
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        choices = {
            "format": (self.format, (None, "jsonl", "parquet", "text")),
            "chats": (self.chats, ("template", "content")),
            "on_error": (self.on_error, ("stop", "skip")),
            "backend": (self.backend, ("local", "ray")),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(
                    f"{name} has a value that it cannot have",
                    got=repr(value),
                    expected=" or ".join(map(repr, allowed)),
                    next_step="choose one of these",
                )
        if isinstance(self.sources, str) or not self.sources:
            raise InputError(
                "There is no corpus", got=repr(self.sources), next_step="give at least one path, in a tuple"
            )
        if (self.workers is not None and self.workers < 1) or self.block_bytes < 8 or self.checkpoint_every_s < 0:
            raise InputError(
                "A number is too small",
                got=f"workers {self.workers}, block_bytes {self.block_bytes}, every {self.checkpoint_every_s} s",
                expected="workers from 1, block_bytes from 8, checkpoint_every_s from 0",
                next_step="leave it out to get the default",
            )
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(
                    f"The weight of {name} cannot be used", got=weight, expected="0 or more", next_step="correct it"
                )


def check_weights(config: CountConfig, sources: Sequence[Source]) -> None:
    """Find a misspelt domain before hours of counting, if all domains are known by then."""
    if any(source.domain is None for source in sources):
        return
    names = {source.domain for source in sources}
    unknown = sorted(set(config.weights) - names)
    if unknown:
        raise InputError(
            "A weight names a domain that is not counted",
            got=", ".join(unknown),
            expected=f"one of {', '.join(sorted(name for name in names if name)):.300}",
            next_step="correct the name after --weight",
        )
