"""Drives an EAGLE network token by token: one sequence, one cache that is rolled back by forgetting its end."""

from __future__ import annotations

import torch
from torch import Tensor

from outlex.eagle.attention import attend_cached
from outlex.eagle.module import EagleModule

__all__ = ["EagleRunner"]

_FIRST_CAPACITY = 512  # tokens; doubled whenever it is full


class EagleRunner:
    """The network and the keys and values of one text.

    Attributes:
        length: positions in the cache.

    Args:
        module: the network, in the dtype and on the device where it computes.
    """

    def __init__(self, module: EagleModule) -> None:
        self.module = module
        self.length = 0
        self._keys, self._values = self._empty(_FIRST_CAPACITY), self._empty(_FIRST_CAPACITY)

    def _empty(self, capacity: int) -> Tensor:
        config, like = self.module.config, self.module.o_proj.weight
        return like.new_empty(config.n_kv_heads, capacity, config.head_dim)

    def reset(self) -> None:
        """Forget the text."""
        self.length = 0

    def rollback(self, length: int) -> None:
        """Keep the first `length` positions. What lies behind them is never read again, and overwritten."""
        self.length = length

    @property
    def cached(self) -> tuple[Tensor, Tensor]:
        """Keys and values, each [kv heads, length, head_dim]."""
        return self._keys[:, : self.length], self._values[:, : self.length]

    @torch.inference_mode()
    def forward(self, embedded: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Append n positions.

        Args:
            embedded: [n, d], embeddings of their tokens.
            states: [n, d], what `EagleModule.fuse` or the step before gave for the positions before those tokens.

        Returns:
            Of the last position: the state that the head scores, and the one that goes into the next step, both [1, d].
        """
        module = self.module
        joined, residual = module.join(embedded, states)
        queries, keys, values = module.queries_keys_values(joined, self.length)
        self._append(keys, values)
        # there is one layer, so of all positions but the last only keys and values are ever looked at
        attended = attend_cached(queries[-1].unsqueeze(1), *self.cached).view(1, -1)
        after = module.finish_layer(attended, residual[-1:])
        for_head = module.for_head(after)
        return for_head, module.fed_back(after, for_head)

    def _append(self, keys: Tensor, values: Tensor) -> None:
        first, self.length = self.length, self.length + keys.shape[0]
        if self.length > self._keys.shape[1]:
            old_keys, old_values = self._keys[:, :first], self._values[:, :first]
            self._keys, self._values = self._empty(2 * self.length), self._empty(2 * self.length)
            self._keys[:, :first], self._values[:, :first] = old_keys, old_values
        self._keys[:, first : self.length] = keys.transpose(0, 1)
        self._values[:, first : self.length] = values.transpose(0, 1)
