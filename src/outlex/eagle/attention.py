"""The three ways in which positions of an EAGLE drafter see each other.

Queries are [..., heads, n, head_dim], keys and values [..., kv heads, n, head_dim]; a group of query heads shares keys
and values. Everything returns [..., heads, n, head_dim].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attend_cached", "attend_own_steps", "attend_segments"]


def attend_cached(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The last position of one text: queries [heads, 1, head_dim], keys and values [kv heads, length, head_dim].

    It sees everything, so no mask is needed, and the query heads of a group are rows of one small matrix.
    """
    grouped = queries.reshape(1, keys.shape[0], -1, queries.shape[-1])
    return F.scaled_dot_product_attention(grouped, keys[None], values[None]).view_as(queries)


def attend_segments(queries: Tensor, keys: Tensor, values: Tensor, segments: Tensor | None) -> Tensor:
    """Each position of a batch sees those up to its own that belong to the same text; batch size B in front.

    Args:
        queries, keys, values: see above.
        segments: int [B, n], −1 for padding, or None: one text a row.
    """
    if segments is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
    mask = _visible(segments).unsqueeze(1)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)


def attend_own_steps(
    queries: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], segments: Tensor | None
) -> Tensor:
    """A later draft step: the first step as in `attend_segments`, the others at the query's own position only.

    Args:
        queries: of this step.
        keys, values: of every step from the first to this one.
        segments: as in `attend_segments`.
    """
    n_heads, n, head_dim = queries.shape[-3:]
    n_kv_heads = keys[0].shape[-3]
    grouped = queries.reshape(-1, n_kv_heads, n_heads // n_kv_heads, n, head_dim) * head_dim**-0.5
    # [B, kv heads, group, n, n], and one column for each later step
    first = grouped @ keys[0].unsqueeze(-3).transpose(-1, -2)
    hidden = ~(_causal(n, queries.device) if segments is None else _visible(segments)[:, None, None])
    first = first.masked_fill(hidden, -torch.inf)
    own = [(grouped * step.unsqueeze(-3)).sum(-1, keepdim=True) for step in keys[1:]]
    weights = torch.cat([first, *own], dim=-1).float().softmax(-1).to(values[0].dtype)
    attended = weights[..., :n] @ values[0].unsqueeze(-3)
    for i, step in enumerate(values[1:]):
        attended = attended + weights[..., n + i : n + i + 1] * step.unsqueeze(-3)
    return attended.flatten(-4, -3)


def _causal(n: int, device: torch.device) -> Tensor:
    """bool [n, n]: each position sees those up to its own."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def _visible(segments: Tensor) -> Tensor:
    """bool [B, n, n]; padding sees itself, so that no row is empty."""
    n = segments.shape[1]
    same = (segments[:, :, None] == segments[:, None, :]) & (segments >= 0)[:, :, None]
    return (same & _causal(n, segments.device)) | torch.eye(n, dtype=torch.bool, device=segments.device)
