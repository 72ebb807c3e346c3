"""Rotary position embedding (arXiv 2104.09864), halves rotated against each other as in Llama."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from outlex.eagle.config import EagleConfig

__all__ = ["Rotary"]


class Rotary(nn.Module):
    """Angles for as many positions as were asked for so far.

    Only differences of positions matter, so it is of no importance which position counts as the first.

    Args:
        config: head width and rope parameters.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        # no buffer: a module that is cast to bfloat16 keeps exact angles
        self._exact, self._scale = _frequencies(config)
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    def forward(self, heads: Tensor, first_position: int) -> Tensor:
        """Rotate [..., n, heads, head_dim] at the positions `first_position`, `first_position` + 1, …"""
        last = first_position + heads.shape[-3]
        if last > self.cos.shape[0] or self.cos.dtype != heads.dtype or self.cos.device != heads.device:
            self._extend(2 * last, heads)
        cos, sin = self.cos[first_position:last], self.sin[first_position:last]
        half = heads.shape[-1] // 2
        swapped = torch.cat([heads[..., half:], heads[..., :half]], dim=-1)
        return heads * cos + swapped * sin

    def _extend(self, length: int, like: Tensor) -> None:
        with torch.inference_mode(False):  # training may go on with tables that decoding made
            angles = torch.arange(length, dtype=torch.float64)[:, None] * self._exact.double()
            cos, sin = angles.cos() * self._scale, angles.sin() * self._scale
            # [length, 1, head_dim]: the minus of the rotation is in the table
            self.cos = torch.cat([cos, cos], dim=-1)[:, None].to(like.device, like.dtype)
            self.sin = torch.cat([-sin, sin], dim=-1)[:, None].to(like.device, like.dtype)


def _frequencies(config: EagleConfig) -> tuple[Tensor, float]:
    kind, theta = config.rope.get("rope_type", "default"), float(config.rope["rope_theta"])
    if kind == "default":
        return theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim), 1.0
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    like = LlamaConfig(
        hidden_size=config.n_heads * config.head_dim,
        num_attention_heads=config.n_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_length,
        rope_parameters=dict(config.rope),
    )
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](like, torch.device("cpu"))
    return frequencies.float(), float(scale)
