"""Tokens that only the drafter has, drawn as the target would begin to spell them. For drafters with another tokenizer.

    drafter row    "unbel"      " in"      "iev"            the whole law q over the drafter's own tokens
    target         "un"         " in"      "i"              first token of what the target's tokenizer makes of it
    q̃              q moves      q stays    q moves

TLI drops what the drafter gives to "unbel" and renormalises; but who says "unbel" has said that the text goes on with
"un". The mass of several rows may meet in one token, and the token need not be one that the drafter has. No numbers are
fitted: the two tokenizers say it all. In RDK's form (arXiv 2506.03206) this is q̃ = Mᵀ q with a 0/1 kernel from all of
the drafter's tokens, instead of from those that the target shares. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError, MismatchError
from outlex.proposals.base import DraftScores, HotLaw, ProposalLaw
from outlex.proposals.restoring import Restoring
from outlex.randomness import Randomness
from outlex.sampling import SamplingParams, probabilities

__all__ = ["Respelled"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Respelled(Restoring):
    """q ↦ q̃ by the first target token of every draft column.

    Attributes:
        first_ids: int64 [n_draft], the target's token that each draft column begins with, its own image where it has
            one; -1 for a column that is never drawn (padding, control tokens).
        n_target: width of the target's head.

    Raises:
        InputError: not such ids.
    """

    kind: ClassVar[str] = "respelled"

    first_ids: Tensor = field(repr=False)
    n_target: int

    def __post_init__(self) -> None:
        ids = self.first_ids
        fits = ids.ndim == 1 and ids.dtype == torch.int64 and ids.numel() > 0
        if not fits or not -1 <= int(ids.min()) <= int(ids.max()) < self.n_target or int(ids.max()) < 0:
            raise InputError(
                "These are not the first tokens of a drafter's rows",
                got=f"{ids.dtype} {list(ids.shape)}" + (f", ids {int(ids.min())} to {int(ids.max())}" if fits else ""),
                expected=f"int64 [n_draft], ids from 0 to {self.n_target - 1}, at least one; -1 where there is none",
                next_step="outlex.vocab.retokenizer.first_tokens makes them",
            )

    def restore(self, hot: HotLaw, scores: DraftScores, params: SamplingParams) -> ProposalLaw:
        ids, logits = self.first_ids, scores.logits
        if ids.shape[0] != logits.shape[-1]:
            raise MismatchError(
                "The first tokens are those of another draft head",
                got=f"{logits.shape[-1]} columns",
                expected=f"{ids.shape[0]} columns",
                next_step="make the proposal for this head again",
            )
        drawn = logits.masked_fill(ids < 0, -torch.inf)
        # where the drafter believes in such columns alone, vanilla's -1 is drawn, as TLI does
        empty = drawn.amax(-1) == -torch.inf
        probs = probabilities(torch.where(empty.unsqueeze(-1), logits, drawn), params)
        return _RespelledLaw(probs, ids, self.n_target)


class _RespelledLaw:
    """probs [n, n_draft] of columns; mass on columns with first_ids -1 is drawn as -1."""

    def __init__(self, probs: Tensor, first_ids: Tensor, n_target: int) -> None:
        self._probs = probs
        self._first_ids = first_ids
        self._n_target = n_target

    def sample(self, randomness: Randomness) -> Tensor:
        return self._first_ids[randomness.choose(self._probs)]

    def prob_of(self, ids: Tensor) -> Tensor:
        # one comparison a column is what the softmax cost too; nothing is n_target wide
        same = (self._first_ids == ids.unsqueeze(-1)) & (ids >= 0).unsqueeze(-1)
        return self._probs.masked_fill(~same, 0.0).sum(-1)

    def dense(self) -> Tensor:
        known = self._first_ids >= 0
        out = self._probs.new_zeros(self._probs.shape[0], self._n_target)
        return out.index_add_(-1, self._first_ids[known], self._probs[:, known])
