"""What outlex needs to know of a tokenizer: its pieces by id, a fingerprint, and the bytes they spell."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from outlex.errors import InputError, MismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenizerFacts", "check_same_tokenizer", "facts_of", "piece_bytes"]

Spelling = Literal["byte-level", "sentencepiece", "text"]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """A tokenizer, reduced to plain values.

    Attributes:
        pieces: the piece of each id, ``None`` at an id that has none. Rows of a padded head, and the
            filler pieces that a GGUF file gives them, are not entries and not in here.
        fingerprint: sha256 (hex) over the pieces in id order; the same for every padding.
        special_ids: ids that a decoder leaves out (begin, end, control), ascending.
        added_ids: ids of all added tokens, special or not (``<tool_call>``), ascending.
        eos_id: the tokenizer's own end-of-sequence id.
        spelling: how a piece spells its bytes, see `piece_bytes`.

    Raises:
        InputError: no pieces, or ids out of range.
    """

    pieces: tuple[str | None, ...] = field(repr=False)
    fingerprint: str
    special_ids: tuple[int, ...] = field(repr=False)
    added_ids: tuple[int, ...] = field(repr=False)
    eos_id: int | None
    spelling: Spelling

    def __post_init__(self) -> None:
        named = (*self.special_ids, *self.added_ids, *(() if self.eos_id is None else (self.eos_id,)))
        if not self.pieces or not all(0 <= index < len(self.pieces) for index in named):
            raise InputError(
                "A tokenizer needs pieces, and its special ids must be among them",
                got=f"{len(self.pieces)} pieces, special ids up to {max(named, default=None)}",
                next_step="check that the tokenizer files belong together and are complete",
            )

    @property
    def n_entries(self) -> int:
        """Ids from 0 to the last real piece; what fits in a head without its padding."""
        return len(self.pieces)

    def fingerprint_of_first(self, n_entries: int) -> str:
        """The fingerprint of a tokenizer that has only the first ``n_entries`` pieces of this one."""
        return self.fingerprint if n_entries == self.n_entries else _fingerprint(self.pieces[:n_entries])


def facts_of(tokenizer: PreTrainedTokenizerBase) -> TokenizerFacts:
    """Read the facts of a transformers tokenizer.

    Raises:
        InputError: the tokenizer has no pieces.
    """
    added = tokenizer.added_tokens_decoder
    by_id: dict[int, str] = {}
    for piece, index in tokenizer.get_vocab().items():
        # Two pieces of one id come in random order, and a fingerprint must not depend on it.
        if index not in by_id or piece < by_id[index]:
            by_id[index] = piece
    by_id.update((index, token.content) for index, token in added.items())
    last = max(by_id, default=-1)
    # llama.cpp fills the rows of a padded head with pieces that carry their own id.
    while last >= 0 and by_id.get(last, f"[PAD{last}]") == f"[PAD{last}]":
        last -= 1
    pieces = tuple(by_id.get(index) for index in range(last + 1))
    special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    eos_id = tokenizer.eos_token_id
    return TokenizerFacts(
        pieces=pieces,
        fingerprint=_fingerprint(pieces),
        special_ids=tuple(sorted(index for index in special if index <= last)),
        added_ids=tuple(sorted(index for index in added if index <= last)),
        eos_id=eos_id if isinstance(eos_id, int) and eos_id <= last else None,
        spelling=_spelling(tokenizer, pieces),
    )


def check_same_tokenizer(target: TokenizerFacts, drafter: TokenizerFacts, *, remedy: str = "") -> int:
    """Check that every id means the same piece to both; returns how many entries they share.

    One may have more pieces at the end (tokens added later): ids up to there mean the same, and the
    rest are simply unknown to the other side.

    Args:
        target, drafter: the two tokenizers.
        remedy: what else the caller can do with a pair that differs, for the message.

    Raises:
        MismatchError: some id that both have means different pieces.
    """
    n_shared = min(target.n_entries, drafter.n_entries)
    if target.fingerprint == drafter.fingerprint:
        return n_shared
    pairs = zip(target.pieces, drafter.pieces, strict=False)
    wrong = [index for index, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if wrong:
        examples = "; ".join(
            f"id {index}: target {target.pieces[index]!r}, drafter {drafter.pieces[index]!r}" for index in wrong[:3]
        )
        raise MismatchError(
            "The target and the drafter have different tokenizers",
            got=f"{len(wrong)} of {n_shared} shared ids mean different pieces ({examples})",
            expected="the same piece for every id that both have",
            next_step=f"choose a drafter of the target's own family, with the same tokenizer{remedy}",
        )
    return n_shared


def piece_bytes(facts: TokenizerFacts) -> list[bytes | None]:
    """The bytes each id spells when decoded on its own; ``None`` for specials and for empty ids.

    ``byte-level`` pieces are written in GPT-2's alphabet of 256 printable characters, one for each
    byte. ``sentencepiece`` pieces have U+2581 for a space, and ``<0x0A>`` for a byte that has no
    other piece. ``text`` pieces are taken as they are.
    """
    special = set(facts.special_ids)
    if facts.spelling == "byte-level":
        alphabet = _byte_alphabet()
        known, to_latin = set(alphabet), str.maketrans({char: chr(b) for char, b in alphabet.items()})
        return [
            None
            if piece is None or index in special
            # A character outside the alphabet means that the piece was added as plain text.
            else (piece.translate(to_latin).encode("latin-1") if known.issuperset(piece) else _utf8(piece))
            for index, piece in enumerate(facts.pieces)
        ]
    spaced = facts.spelling == "sentencepiece"
    return [
        None if piece is None or index in special else (_sentencepiece(piece) if spaced else _utf8(piece))
        for index, piece in enumerate(facts.pieces)
    ]


def _sentencepiece(piece: str) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else _utf8(piece.replace(_SPACE, " "))


def _utf8(piece: str) -> bytes:
    return piece.encode("utf-8", "surrogatepass")


def _fingerprint(pieces: tuple[str | None, ...]) -> str:
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _spelling(tokenizer: PreTrainedTokenizerBase, pieces: tuple[str | None, ...]) -> Spelling:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.decoder is not None:
        state = json.dumps(json.loads(backend.decoder.__getstate__()), ensure_ascii=False)
        if '"ByteLevel"' in state:
            return "byte-level"
        return "sentencepiece" if '"Metaspace"' in state or _SPACE in state else "text"
    # Without a decoder to ask, the way most pieces write a leading space tells.
    spaces = [piece[0] for piece in pieces if piece and piece[0] in ("\u0120", _SPACE)]
    if not spaces:
        return "text"
    return "sentencepiece" if spaces.count(_SPACE) > len(spaces) / 2 else "byte-level"
