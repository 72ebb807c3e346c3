"""Vanilla speculative sampling: draw from the drafter's own law, whatever the target thinks of the token.

Leviathan et al., arXiv 2211.17192. Draft columns that have no target token keep their probability and are always
rejected: their mass is wasted. With a sub-vocabulary of the target's own tokens there are none, and this is `Tli`.
"""

from __future__ import annotations

from outlex.proposals.base import DraftScores, HotLaw
from outlex.sampling import SamplingParams, probabilities

__all__ = ["Vanilla"]


class Vanilla:
    """q̃ = q on the tokens both models know; the rest of q's mass is drawn as -1."""

    name = "vanilla"

    def law(self, scores: DraftScores, params: SamplingParams) -> HotLaw:
        return HotLaw(probabilities(scores.logits, params), scores.token_map)
