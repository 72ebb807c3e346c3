"""The loss over a draft vocabulary, with the rest of the vocabulary estimated: a tenth of the full head's work.

q is the drafter's softmax over *all* tokens. Its normaliser needs every row of the head; here the rows of the draft
vocabulary D are exact and the n_cold others are estimated by a random sample S of them,

    log Σ_v exp(z_v) ≈ log( Σ_D exp(z_v) + n_cold/|S| · Σ_S exp(z_v) ),

so the cold rows learn to stay down although they are never computed as a whole. The loss of a position is

    −(1 − w) · Σ_v p_v log q_v + w · (1 − Σ_v min(p_v, q_v))

with all cold tokens as one class. The first term is KL(p ‖ q) plus what no drafter can change, the second the share of
drafts that is rejected at temperature 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["DraftRows", "draft_loss"]

_CHUNK = 128  # positions at a time: their scores stay in the processor's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftRows:
    """The rows of the target's head that a step is computed with.

    Attributes:
        hot: rows of D, [n_hot, d].
        cold: rows of the sample S, [n_sample, d]; none if D is the whole vocabulary.
        log_weight: log(n_cold / n_sample).
    """

    hot: Tensor
    cold: Tensor
    log_weight: float


def draft_loss(states: Tensor, laws: Tensor, rows: DraftRows, *, rejection_weight: float) -> Tensor:
    """Mean loss of the positions.

    Args:
        states: the drafter's, [n, d].
        laws: p over D, [n, n_hot]; what is missing to 1 is the cold class.
        rows: of the head, in the dtype of the products.
        rejection_weight: w, 0 to 1.

    Returns:
        The loss, with a gradient for `states`.
    """
    loss: Tensor = _DraftLoss.apply(states, laws, rows, rejection_weight)  # type: ignore[no-untyped-call]
    return loss


class _DraftLoss(torch.autograd.Function):
    """The gradient is computed on the way forward, chunk by chunk: no logits are kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, laws: Tensor, rows: DraftRows, weight: float) -> Tensor:
        n, n_hot = laws.shape
        table = torch.cat([rows.hot, rows.cold])
        gradient = torch.empty_like(states)
        loss = states.new_zeros((), dtype=torch.float32)
        for begin in range(0, n, _CHUNK):
            piece = slice(begin, begin + _CHUNK)
            scores = (states[piece].to(table.dtype) @ table.T).float()
            scores[:, n_hot:] += rows.log_weight
            p, norm = laws[piece].float(), scores.logsumexp(-1, keepdim=True)
            p_cold = (1 - p.sum(-1, keepdim=True)).clamp_min_(0)
            # log q of the cold class; a head without cold rows has none
            cold_norm = scores[:, n_hot:].logsumexp(-1, keepdim=True) if len(rows.cold) else norm
            cross = (norm - scores[:, :n_hot]).mul_(p).sum() + (p_cold * (norm - cold_norm)).sum()
            q = scores.sub_(norm).exp_()
            q_hot = q[:, :n_hot]
            # of the cross-entropy: q − p; of 1 − Σ min: q · (Σ_{q<p} q − [q < p])
            short = q_hot * (q_hot < p) if weight > 0 else None
            slope = q * (1 - weight if short is None else 1 - weight + weight * short.sum(-1, keepdim=True))
            slope[:, :n_hot] -= (1 - weight) * p
            slope[:, n_hot:] -= (1 - weight) * p_cold * (q[:, n_hot:] * (norm - cold_norm).exp())
            loss += (1 - weight) * cross
            if short is not None:
                slope[:, :n_hot] -= weight * short
                loss += weight * (p.shape[0] - torch.minimum(p, q_hot).sum())
            gradient[piece] = (slope.to(table.dtype) @ table).to(gradient.dtype)
        ctx.save_for_backward(gradient / n)
        return loss / n

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slopes[0], None, None, None
