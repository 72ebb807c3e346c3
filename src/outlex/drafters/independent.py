"""An independent drafter: a smaller causal model with the target's tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from outlex.heads.linear import FullHead, LinearHead
from outlex.models.output_head import output_head
from outlex.models.runner import Body, BodyRunner

if TYPE_CHECKING:
    from outlex.heads.base import DraftHead
    from outlex.models.load import LanguageModel

__all__ = ["IndependentDrafter"]


class IndependentDrafter:
    """Drives a loaded model as drafter (protocol `Drafter`).

    Args:
        loaded: the model.
        head: its draft head; None uses the model's own, whole.
        n_target: rows of the target's head, needed when `head` is None.
    """

    feature_layers: tuple[int, ...] = ()

    def __init__(self, loaded: LanguageModel, *, head: DraftHead | None = None, n_target: int | None = None) -> None:
        self.loaded = loaded
        self.name = loaded.name
        self.full_head: LinearHead = output_head(loaded)
        self.head: DraftHead = head or FullHead(self.full_head, n_target=n_target or self.full_head.n_rows)
        self.body: Body = BodyRunner(loaded)
        self._n_verified = 0

    @property
    def max_length(self) -> int:
        return self.body.max_length

    @property
    def bytes_per_step(self) -> int:
        return self.body.bytes_per_step + self.head.bytes_per_step

    def begin(self) -> None:
        self.body.reset()
        self._n_verified = 0

    def advance(self, verified_ids: Tensor, *, n_accepted: int, features: Tensor | None) -> Tensor:
        del features
        # The cache holds the verified tokens and the drafts that were fed back: all of the last block but its end.
        n_kept = min(n_accepted, self.body.length - self._n_verified)
        self.body.rollback(self._n_verified + n_kept)
        self._n_verified += verified_ids.shape[0]
        return self._forward(verified_ids[n_kept:])[-1:]

    def step(self, draft_id: Tensor) -> Tensor:
        return self._forward(draft_id)

    def _forward(self, ids: Tensor) -> Tensor:
        # A target padded to more rows may emit an id that this model has no embedding for. Any token will do then:
        # the proposal gets worse, the law does not change.
        return self.body.forward(torch.where(ids < self.body.n_embeddings, ids, 0))[0]
