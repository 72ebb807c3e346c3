"""Verification: which draft tokens stand, and the one token that the target adds.

Chen et al., arXiv 2302.01318; Leviathan et al., arXiv 2211.17192. Pure functions of (p, q̃, draft) apart from the draws,
which come from the `Randomness` they are given. Lossless for every q̃ that does not look at p of its own position, as
long as the same q̃ was used to draw.

Index shift: `target_probs[i]` is the law of the token that draft i stands for, i.e. it was computed from the hidden
state one position earlier. There is one row more than there are drafts: the last one gives the bonus token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from outlex.errors import NumericalError
from outlex.proposals.base import ProposalLaw
from outlex.randomness import Randomness

__all__ = ["Verdict", "acceptance_probs", "overlap", "residual", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What verification made of a block of drafts.

    Attributes:
        n_accepted: accepted drafts, a prefix of the block.
        next_id: the token that follows them.
        kind: "recovered" if it replaces a rejected draft, "bonus" if every draft was accepted.
    """

    n_accepted: int
    next_id: int
    kind: str


def acceptance_probs(target_probs: Tensor, proposal_probs: Tensor) -> Tensor:
    """min(1, p/q̃) for tokens that were drawn; 0 where q̃ is 0 (nothing can have been drawn there).

    Args:
        target_probs: p(x) of each draft [n].
        proposal_probs: q̃(x) of each draft [n].

    Returns:
        Probabilities [n], float64.
    """
    p, q = target_probs.double(), proposal_probs.double()
    return torch.where(q > 0, p / torch.where(q > 0, q, 1.0), 0.0).clamp_max(1.0)


def residual(target_probs: Tensor, proposal_probs: Tensor) -> Tensor:
    """norm(max(p − q̃, 0)), the law of the token that replaces a rejected draft.

    Where p ≤ q̃ everywhere up to rounding there is no mass left, and a rejection has probability zero up to rounding:
    p itself is returned then.

    Args:
        target_probs: p, [n, n_target], rows summing to 1.
        proposal_probs: q̃ of the same positions, [n, n_target], rows summing to at most 1.

    Returns:
        Probabilities [n, n_target].
    """
    left = (target_probs - proposal_probs).clamp_min(0)
    mass = left.sum(-1, keepdim=True)
    return torch.where(mass > 0, left / torch.where(mass > 0, mass, 1.0), target_probs)


def overlap(target_probs: Tensor, proposal_probs: Tensor) -> Tensor:
    """β = Σ_v min(p_v, q̃_v), the exact probability that a draft drawn from q̃ is accepted: two [n, n_target] -> [n]."""
    return torch.minimum(target_probs, proposal_probs).sum(-1, dtype=torch.float64)


def verify(target_probs: Tensor, draft_ids: Tensor, laws: Sequence[ProposalLaw], randomness: Randomness) -> Verdict:
    """Accept a prefix of the drafts and draw the token that follows.

    Args:
        target_probs: p at each draft and one position further, [γ + 1, n_target].
        draft_ids: drawn tokens, int64 [γ]; -1 is a token the target does not know.
        laws: the γ laws (of one position each) that the drafts were drawn from.
        randomness: where the tests and the next token come from.

    Raises:
        NumericalError: p or q̃ holds NaN (the logits held NaN or infinity).
    """
    n_drafts = len(laws)
    p_broken = target_probs[:, 0].isnan().any()  # a broken row is NaN from end to end
    if n_drafts:
        rows = target_probs[:n_drafts]
        p = rows.gather(-1, draft_ids.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        q = torch.cat([law.prob_of(draft_ids[i : i + 1]) for i, law in enumerate(laws)])
        accepts = acceptance_probs(p, q).masked_fill(draft_ids < 0, 0.0)
        run = randomness.count_accepted(accepts)
        # one wait for the device: how many stand decides where the residual is needed
        n_accepted, p_is_broken, q_is_broken = torch.stack([run, p_broken, q.isnan().any()]).tolist()
    else:
        n_accepted, p_is_broken, q_is_broken = 0, bool(p_broken), False
    if p_is_broken or q_is_broken:
        raise NumericalError(
            f"The {'target' if p_is_broken else 'drafter'}'s logits hold NaN or infinity",
            expected="finite logits",
            next_step="try float32 (--dtype float32); if it stays, the checkpoint is damaged",
        )
    next_probs = target_probs[n_accepted : n_accepted + 1]
    if n_accepted < n_drafts:
        next_probs = residual(next_probs, laws[n_accepted].dense())
    return Verdict(
        n_accepted=n_accepted,
        next_id=int(randomness.choose(next_probs)),
        kind="recovered" if n_accepted < n_drafts else "bonus",
    )
