"""log q̃ over the target's vocabulary: what vLLM wants of a draft model's `compute_logits`.

    hidden ──draft head──▶ DraftScores ──log_law──▶ [n, n_target] ──vLLM: softmax, draw, verify

vLLM draws from the softmax of what it is given, and verifies against the same numbers; so any rows will do as long as
their softmax is q̃. It divides them by the request's temperature first, which no proposal gets to see: at T ≠ 1 the
law that is drawn from is q̃^(1/T), renormalised. That keeps the target's law and is only less apt; for TLI, whose logits
are the drafter's, it is the same thing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from outlex.proposals.base import DraftScores, Proposal
from outlex.proposals.tli import Tli
from outlex.sampling import SamplingParams

__all__ = ["log_law"]

_AS_IS = SamplingParams()


def log_law(scores: DraftScores, proposal: Proposal, *, dtype: torch.dtype) -> Tensor:
    """Rows whose softmax is q̃.

    Args:
        scores: of n positions; every column a token of the target.
        proposal: q ↦ q̃.
        dtype: of the result. vLLM keeps draft logits in a cache of the drafter's head dtype, and another one breaks it.

    Returns:
        [n, n_target]: the drafter's own logits for TLI, log q̃ for other proposals, -inf where q̃ is 0.
    """
    if not isinstance(proposal, Tli):
        return proposal.law(scores, _AS_IS).dense().log().to(dtype)
    token_map, logits = scores.token_map, scores.logits.to(dtype)
    if token_map.is_identity and token_map.n_draft == token_map.n_target:
        return logits
    out = logits.new_full((logits.shape[0], token_map.n_target), -torch.inf)
    return out.index_copy_(-1, token_map.draft_to_target, logits)
