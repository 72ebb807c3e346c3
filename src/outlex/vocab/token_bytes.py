"""Which tokens of two tokenizers are the same string, whatever their ids and however their files spell them.

For example:

    target  "Ġint" (byte-level)     = b" int" =     "▁int" (SentencePiece)  drafter
    target  <|im_end|>, its end     =  role   =     </s>, its end           drafter
    target  <tool_call>, special       nothing      no such token           drafter
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from outlex.errors import MismatchError
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import TokenizerFacts, piece_bytes

__all__ = ["TokenBytes", "shared_tokens"]

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True, kw_only=True)
class TokenBytes:
    """The bytes of each token, and the token of each bytes.

    Attributes:
        spelled: bytes of each id, see `outlex.vocab.tokenizer_facts.piece_bytes`; None for specials and empty ids.
        ids: the id of each spelling. Where several ids spell the same (SentencePiece's `A` and `<0x41>`), the one that
            the tokenizer itself would choose for a text.
    """

    spelled: tuple[bytes | None, ...] = field(repr=False)
    ids: Mapping[bytes, int] = field(repr=False)

    @classmethod
    def of(cls, facts: TokenizerFacts) -> TokenBytes:
        """The spellings of a tokenizer."""
        spelled = tuple(piece_bytes(facts))
        added = set(facts.added_ids)
        ids: dict[bytes, int] = {}
        # what comes last stays: added tokens are found first in a text, byte pieces are its last resort
        for index in sorted(range(len(spelled)), key=lambda i: (_rank(facts.pieces[i], i in added), -i)):
            data = spelled[index]
            if data:
                ids[data] = index
        return cls(spelled=spelled, ids=ids)


def _rank(piece: str | None, is_added: bool) -> int:
    if is_added:
        return 2
    return 0 if piece is None or _BYTE_PIECE.fullmatch(piece) else 1


def shared_tokens(target: TokenizerFacts, drafter: TokenizerFacts, *, n_draft: int, n_target: int) -> TokenMap:
    """The map of two tokenizers: tokens with equal bytes, and the two ends of sequence.

    Other special tokens are left out even where their names agree: names say little about use. A row without an image
    is unknown to the target, which TLI handles (Timor et al., arXiv 2502.05202).

    Args:
        target, drafter: the two tokenizers.
        n_draft: rows of the drafter's head, padding included.
        n_target: rows of the target's head, padding included.

    Raises:
        MismatchError: they share no token.
    """
    ours, theirs = TokenBytes.of(target).ids, TokenBytes.of(drafter).ids
    pairs = [(row, ours[data]) for data, row in theirs.items() if data in ours]
    if target.eos_id is not None and drafter.eos_id is not None:
        pairs.append((drafter.eos_id, target.eos_id))
    image = [-1] * n_draft
    for row, index in pairs:
        if row < n_draft and index < n_target:
            image[row] = index
    if max(image) < 0:
        raise MismatchError(
            "The two tokenizers share no token",
            got=f"{target.n_entries} tokens of the target, {drafter.n_entries} of the drafter, none with equal bytes",
            expected="some tokens that spell the same",
            next_step="choose another drafter",
        )
    return TokenMap(torch.tensor(image), n_draft=n_draft, n_target=n_target)
