"""An EAGLE drafter without its target: the network, and what it brings along of embedding, head and map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from outlex.eagle.config import EagleConfig
from outlex.eagle.module import EagleModule
from outlex.errors import InputError

__all__ = ["EagleCheckpoint"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EagleCheckpoint:
    """A drafter as a checkpoint holds it.

    Attributes:
        module: the network.
        embedding: [n_rows, d], or None: the target's.
        head: [n_draft, d], or None: the target's, of which `draft_to_target` picks rows.
        draft_to_target: int64 [n_draft], absolute ids; None if the rows of the head are the target's ids.
        provenance: how it was made, JSON values; empty where the checkpoint does not say.

    Raises:
        InputError: they do not fit the config.
    """

    module: EagleModule
    embedding: Tensor | None = field(default=None, repr=False)
    head: Tensor | None = field(default=None, repr=False)
    draft_to_target: Tensor | None = field(default=None, repr=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        config, d = self.module.config, self.module.config.hidden_size
        n_draft = config.target.n_rows if config.n_draft is None else config.n_draft
        found = (
            None if self.embedding is None else list(self.embedding.shape),
            None if self.head is None else list(self.head.shape),
            None if self.draft_to_target is None else list(self.draft_to_target.shape),
        )
        wanted = (
            [config.target.n_rows, d] if config.has_own_embedding else None,
            [n_draft, d] if config.has_own_head else None,
            None if config.n_draft is None else [n_draft],
        )
        if found != wanted:
            raise InputError(
                "Embedding, head and map do not fit the config of this drafter",
                got="embedding {}, head {}, map {}".format(*found),
                expected="embedding {}, head {}, map {}".format(*wanted),
                next_step="set has_own_embedding, has_own_head and n_draft of its EagleConfig to what is there",
            )

    @property
    def config(self) -> EagleConfig:
        """Sizes, switches, and whose drafter it is."""
        return self.module.config
