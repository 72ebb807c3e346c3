"""A model without its LM head that reads several sequences in one forward pass.

Reading the weights is what a pass costs on a CPU, and a shared pass reads them once for all its sequences. Each call
appends one column of cache slots per token of its longest piece; shorter pieces are padded on the left. What a sequence
does not have, or has rolled back, is masked and never reused:

    tokens          slots of the cache              a, b: two sequences; · padding, x rolled back
    a  1 2 3 4 5    a  1 2 3 | 4 5 | x x x | 6
    b  1 2          b  · 1 2 | 3 4 | 5 6 x | 7

Positions count each sequence's own tokens, so nothing depends on the neighbours but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.errors import ModelError

if TYPE_CHECKING:
    from outlex.models.language_model import LanguageModel

__all__ = ["SharedBody", "of_similar_length"]

_PADDING = 64  # tokens: the longest prompt of a batch is at most twice its shortest and this much more


class SharedBody:
    """Several sequences, one cache.

    Args:
        loaded: the model.
        n_sequences: how many.
        rolls_back: whether `rollback` will be called.

    Raises:
        ModelError: the model keeps a state or a window that masked slots would disturb, and `rolls_back`.
    """

    def __init__(self, loaded: LanguageModel, n_sequences: int, *, rolls_back: bool) -> None:
        from transformers import DynamicCache

        self.device = loaded.device
        self._body: Any = loaded.model.get_decoder()
        self._cache: Any = DynamicCache(config=loaded.model.config)
        self._is_kept = torch.zeros(n_sequences, 0, dtype=torch.bool)
        if rolls_back and not (self._cache.is_croppable and not any(layer.is_sliding for layer in self._cache.layers)):
            raise ModelError(
                "Requests of this model cannot share forward passes when drafts are rejected",
                got=f"{loaded.name} ({loaded.model.config.model_type}), with sliding windows or a recurrent state",
                expected="a model whose layers attend to everything before a token",
                next_step="decode one request at a time (--batch-size 1)",
            )

    def forward(self, pieces: dict[int, Tensor]) -> dict[int, Tensor]:
        """Append tokens to some of the sequences.

        Args:
            pieces: number of the sequence -> int64 [n], n ≥ 1.

        Returns:
            The same numbers -> final hidden states (after the last norm) [n, d].
        """
        width = max(len(piece) for piece in pieces.values())
        n_sequences = self._is_kept.shape[0]
        ids = torch.zeros(n_sequences, width, dtype=torch.int64, device=self.device)
        is_new = torch.zeros(n_sequences, width, dtype=torch.bool)
        for row, piece in pieces.items():
            ids[row, width - len(piece) :] = piece
            is_new[row, width - len(piece) :] = True
        positions = (self._is_kept.sum(-1, keepdim=True) + is_new.cumsum(-1) - 1).clamp_min(0)
        self._is_kept = torch.cat([self._is_kept, is_new], dim=-1)
        out = self._body(
            input_ids=ids,
            attention_mask=self._is_kept.to(self.device, torch.int64),
            position_ids=positions.to(self.device),
            past_key_values=self._cache,
            use_cache=True,
        )
        return {row: out.last_hidden_state[row, width - len(piece) :] for row, piece in pieces.items()}

    def rollback(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of one sequence."""
        slots = self._is_kept[row].nonzero().squeeze(-1)
        self._is_kept[row, slots[length:]] = False


def of_similar_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of prompts that need little padding: numbers of prompts, shortest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == batch_size or lengths[i] > 2 * lengths[batch[0]] + _PADDING):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
