"""What a choice of tokens keeps and loses, by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from outlex.metrics import Estimate
from outlex.selection.coverage import dropped
from outlex.selection.evidence import Evidence
from outlex.vocab.tokenizer_facts import TokenizerFacts, piece_bytes

__all__ = ["DroppedToken", "coverage_by_domain", "dropped_tokens"]


@dataclass(frozen=True, kw_only=True)
class DroppedToken:
    """A token that is not kept.

    Attributes:
        id: of the token.
        text: what it spells; bytes that are no text are written as U+FFFD.
        share: of all tokens.
    """

    id: int
    text: str
    share: float


def coverage_by_domain(kept: Tensor, evidence: Evidence) -> list[tuple[str, Estimate]]:
    """Share of the tokens of each domain that ``kept``, bool ``[n_tokenizer]``, marks, with an interval."""
    counted = (domain for domain in evidence.domains if bool(domain.counts.any()))
    return [(domain.label, domain.coverage(kept)) for domain in counted]


def dropped_tokens(kept: Tensor, weights: Tensor, *, facts: TokenizerFacts, n: int) -> list[DroppedToken]:
    """The ``n`` tokens of most weight among those not kept, heaviest first.

    Args:
        kept: bool ``[n_tokenizer]``.
        weights: ``[n_tokenizer]``, counts or scores.
        facts: of the tokenizer.
        n: at most so many.
    """
    spelled, total = piece_bytes(facts), float(weights.sum())
    return [
        DroppedToken(id=i, text=_text(spelled[i], facts.pieces[i]), share=float(weights[i]) / total)
        for i in dropped(kept, weights, n=n).tolist()
    ]


def _text(data: bytes | None, piece: str | None) -> str:
    return piece or "" if data is None else data.decode("utf-8", "replace")
