"""Token-level intersection (TLI): the drafter's law restricted to tokens the target knows, renormalised.

Timor et al., arXiv 2502.05202, algorithm 4; also in transformers and vLLM. For a trimmed head the restriction has
already happened: the softmax over the kept rows *is* the renormalised law.
"""

from __future__ import annotations

import torch

from outlex.proposals.base import DraftScores, HotLaw
from outlex.sampling import SamplingParams, probabilities

__all__ = ["Tli"]


class Tli:
    """q̃ = q restricted to D ∩ V, renormalised."""

    name = "tli"

    def law(self, scores: DraftScores, params: SamplingParams) -> HotLaw:
        logits, known = scores.logits, scores.token_map.known
        if known is not None:
            # before the filters: top-k and top-p must count tokens that can be accepted
            shared = logits.masked_fill(~known, -torch.inf)
            # where the drafter believes in unknown tokens alone nothing is left to renormalise: vanilla's -1 then
            logits = torch.where(shared.amax(-1, keepdim=True) > -torch.inf, shared, logits)
        return HotLaw(probabilities(logits, params), scores.token_map)
