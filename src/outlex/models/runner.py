"""Drives a transformers model token by token: a cache that can be rolled back, hidden states, and the LM head apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from outlex.errors import ModelError
from outlex.models.output_head import output_head
from outlex.models.target import TargetOutput

if TYPE_CHECKING:
    from outlex.models.load import LanguageModel

__all__ = ["Body", "BodyRunner", "TargetRunner"]


class Body(Protocol):
    """A model without its LM head and its context, of which the end can be taken back."""

    length: int

    @property
    def max_length(self) -> int:
        """Longest context in tokens."""

    @property
    def n_embeddings(self) -> int:
        """Rows of the embedding."""

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that one forward pass reads."""

    def reset(self) -> None:
        """Forget the context."""

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens."""

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Append tokens, int64 [n] -> final hidden states [n, d], and nothing or features."""


class BodyRunner:
    """A model without its LM head: tokens in, final hidden states out, one sequence, one rollback-able cache.

    Raises:
        ModelError: the model keeps a state that cannot be rolled back.
    """

    def __init__(self, loaded: LanguageModel) -> None:
        self.loaded = loaded
        self.device = loaded.device
        self.max_length = loaded.max_length
        self.length = 0
        self._body: Any = loaded.model.get_decoder()
        embedding: Tensor = loaded.model.get_input_embeddings().weight
        self.n_embeddings = int(embedding.shape[0])
        # one row of the embedding is read a token; the rest of the body's weights are read whole
        weights = {p.data_ptr(): p.nbytes for p in self._body.parameters() if p is not embedding}
        self.bytes_per_step: int = sum(weights.values())
        self._cache: Any = self._new_cache()
        if not self._cache.is_croppable:
            raise ModelError(
                "This model's cache cannot be rolled back, so rejected drafts could not be undone",
                got=f"{loaded.name} ({loaded.model.config.model_type})",
                expected="a model whose layers keep keys and values",
                next_step="use an attention-only model as target and drafter",
            )

    def reset(self) -> None:
        """Forget the context."""
        self._cache = self._new_cache()
        self.length = 0

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.loaded.model.config)
        cache.activate_past_recording()  # sliding windows: keep what a rollback needs until the next crop
        return cache

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens. Also where sliding windows drop what has left the window."""
        if self.length:  # sliding windows cannot crop a cache that was never filled
            self._cache.crop(length - self.length)
        self.length = length

    def forward(self, ids: Tensor, *, feature_layers: tuple[int, ...] = ()) -> tuple[Tensor, Tensor | None]:
        """Append tokens.

        Args:
            ids: int64 [n].
            feature_layers: numbers of the layers whose output is wanted; 0 is the embedding.

        Returns:
            Final hidden states (after the last norm) [n, d], and the features [n, n_layers · d] or None.
        """
        out = self._body(
            input_ids=ids.unsqueeze(0),
            past_key_values=self._cache,
            use_cache=True,
            output_hidden_states=bool(feature_layers),
        )
        self.length += ids.shape[0]
        features = None
        if feature_layers:
            features = torch.cat([out.hidden_states[i][0] for i in feature_layers], dim=-1)
        return out.last_hidden_state[0], features


class TargetRunner:
    """A loaded model as the target (protocol `Target`)."""

    def __init__(self, loaded: LanguageModel) -> None:
        self.loaded = loaded
        self.device = loaded.device
        self.head = output_head(loaded)
        self._body = BodyRunner(loaded)

    @property
    def n_target(self) -> int:
        return self.head.n_rows

    @property
    def max_length(self) -> int:
        return self._body.max_length

    @property
    def bytes_per_step(self) -> int:
        return self._body.bytes_per_step + self.head.n_bytes

    def reset(self) -> None:
        self._body.reset()

    def rollback(self, length: int) -> None:
        self._body.rollback(length)

    def forward(self, ids: Tensor, *, n_logits: int, feature_layers: tuple[int, ...] = ()) -> TargetOutput:
        hidden, features = self._body.forward(ids, feature_layers=feature_layers)
        return TargetOutput(logits=self.head.logits(hidden[-n_logits:]), features=features)
