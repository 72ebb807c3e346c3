"""A text that grows in the tokens of one tokenizer, followed in the tokens of another.

    target   "un"  "believ"  "able"  " in"  "side"          append() token by token
    text     unbelievable inside
    drafter  "unbel" "iev" "able"  " inside"                ids: what the drafter's tokenizer makes of the text so far

A token that joins the text can change how the drafter spells what stood before it (" in" + "side" = " inside"), but
only a little way back: tokenizers cut text by a rule before they merge pieces, and never merge across a cut. Two places
are cuts under every such rule in use, and stay cuts whatever follows, so only the text behind the last of them is
encoded again:

    before a space between something visible and a letter      "x = 1;| return"
    after a line break between something visible and a letter  "pass\n|def"

Tokenizers that do not cut (most with SentencePiece spelling), or that fail a check of these two places, encode
everything since the last special token.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outlex.vocab.token_bytes import TokenBytes
from outlex.vocab.token_map import TokenMap
from outlex.vocab.tokenizer_facts import TokenizerFacts, facts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Retokenizer", "first_tokens"]

_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])|(?<=\S\n)(?=[^\W\d_])")
_INVALID = re.compile("([\udc80-\udcff]+)")  # what "surrogateescape" makes of bytes that are no UTF-8
_CUTTING_RULES = {"ByteLevel", "Digits", "Sequence", "Split"}
_SAMPLES = (
    "ab cd. Ef (g, h)\nint i",
    "don't we'll I 've 12 it's\nno",
    "naïve café 日本 語 🙂 x\nend",
    "a{\n} b;\nc = d\n\ne  f",
)


class Retokenizer:
    """The ids of a growing text.

    Special tokens of the source become the special token of the same name, the end of sequence becomes the other's end,
    and a begin of sequence is left to the other tokenizer; any further one is spelled out as text. Text between special
    tokens is encoded by itself, and never taken for a special token. Bytes that are no UTF-8 become the tokens of those
    bytes, where there are such; so do the bytes of a character that is not complete yet, until it is.

    Args:
        source: the tokenizer whose ids come in.
        into: the tokenizer whose ids come out; left as it is.
    """

    def __init__(self, source: PreTrainedTokenizerBase, into: PreTrainedTokenizerBase) -> None:
        facts, own = facts_of(source), facts_of(into)
        self.start_ids = _start_ids(into)
        self._spelled = TokenBytes.of(facts).spelled
        self._own_ids = TokenBytes.of(own).ids
        self._named = _special_images(facts, own, begin_id=source.bos_token_id if self.start_ids else None)
        self._pieces = facts.pieces
        self._backend = _plain_copy(into)
        self._may_cut = _cuts(self._backend, into)
        self.reset()

    def reset(self) -> None:
        """An empty text."""
        self._settled = list(self.start_ids)
        self._open = bytearray()  # text that may be spelled otherwise when more of it is known
        self._open_ids: list[int] = []

    @property
    def ids(self) -> list[int]:
        """Of the text so far, a fresh list: what the tokenizer puts before any text, then the text."""
        return self._settled + self._open_ids

    @property
    def n_settled(self) -> int:
        """So many ids, from the front, will never change."""
        return len(self._settled)

    def append(self, source_ids: Sequence[int]) -> None:
        """The text goes on with these tokens; padding ids are nothing."""
        for index in source_ids:
            named = self._named.get(index)
            if named is None:
                self._open += self._bytes_of(index)
            else:
                self._settled += [*self._encode(self._open), *named]
                self._open = bytearray()
        text, unfinished = _decoded(self._open)
        cut = self._last_cut(text)
        if cut:
            self._settled += self._encode_text(text[:cut])
            self._open = bytearray(text[cut:].encode("utf-8", "surrogateescape") + unfinished)
        self._open_ids = self._encode_text(text[cut:]) + self._encode_part(unfinished)

    def of_token(self, source_id: int) -> list[int]:
        """One token on its own, as if the texts around it did not matter; may be empty."""
        named = self._named.get(source_id)
        return self._encode(self._bytes_of(source_id)) if named is None else list(named)

    def _bytes_of(self, source_id: int) -> bytes:
        if source_id >= len(self._spelled):
            return b""
        data = self._spelled[source_id]
        return (self._pieces[source_id] or "").encode("utf-8", "surrogatepass") if data is None else data

    def _last_cut(self, text: str) -> int:
        last = 0
        if self._may_cut:
            for found in _CUT.finditer(text):
                last = found.start()
        for found in _INVALID.finditer(text, last):
            last = found.end()
        return last

    def _encode(self, data: bytes | bytearray) -> list[int]:
        """Bytes after which the text is known to end."""
        text, unfinished = _decoded(data)
        return self._encode_text(text) + self._encode_bytes(unfinished)

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        for place, part in enumerate(_INVALID.split(text)):
            if place % 2:
                ids += self._encode_bytes(part.encode("utf-8", "surrogateescape"))
            elif part:
                ids += self._backend.encode(part, add_special_tokens=False).ids
        return ids

    def _encode_part(self, data: bytes) -> list[int]:
        """The beginning of a character: often a token of its own."""
        whole = self._own_ids.get(data)
        return self._encode_bytes(data) if whole is None else [whole]

    def _encode_bytes(self, data: bytes) -> list[int]:
        single = (self._own_ids.get(bytes([byte])) for byte in data)
        return [index for index in single if index is not None]


def first_tokens(target: PreTrainedTokenizerBase, drafter: PreTrainedTokenizerBase, *, shared: TokenMap) -> Tensor:
    """The target's token that the text of each drafter row begins with, spelled on its own.

    Args:
        target, drafter: the tokenizers.
        shared: of them (`outlex.vocab.token_bytes.shared_tokens`): a row with an image begins with that.

    Returns:
        int64 [n_draft] on the CPU; -1 for padding and for special tokens without an image: they have no text.
    """
    respell = Retokenizer(drafter, target)
    images = shared.draft_to_target.tolist()
    spelled = TokenBytes.of(facts_of(drafter)).spelled
    for row, data in enumerate(spelled[: len(images)]):
        if images[row] < 0 and data:
            ids = respell.of_token(row)
            images[row] = ids[0] if ids and ids[0] < shared.n_target else -1
    return torch.tensor(images)


def _decoded(data: bytes | bytearray) -> tuple[str, bytes]:
    """The text, invalid bytes as surrogates, and the bytes at the end that may still become a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text = decoder.decode(data)
    return text, decoder.getstate()[0]


def _special_images(
    source: TokenizerFacts, into: TokenizerFacts, *, begin_id: int | None
) -> dict[int, tuple[int, ...]]:
    """What special ids become; those that are missing are spelled out."""
    by_name = {into.pieces[index]: index for index in into.special_ids}
    images: dict[int, tuple[int, ...]] = {}
    for index in source.special_ids:
        same = by_name.get(source.pieces[index])
        if index == begin_id:
            images[index] = ()
        elif same is not None:
            images[index] = (same,)
        elif index == source.eos_id and into.eos_id is not None:
            images[index] = (into.eos_id,)
    return images


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    for place in range(len(whole)):
        if whole[place : place + len(bare)] == bare:
            return tuple(whole[:place])
    return ()


def _plain_copy(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The backend, with special tokens in a text taken as text, and nothing cut off or filled up."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def _cuts(backend: Any, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the two places are cuts. Known rules only, and even those are tried: a rule is a program."""
    rules = {"none"} if backend.pre_tokenizer is None else _kinds(backend.pre_tokenizer)
    normal = set() if backend.normalizer is None else _kinds(backend.normalizer)
    # an added token may hold a cut inside, or swallow the space before it
    added = [token for token in tokenizer.added_tokens_decoder.values() if not token.special]
    reaching = any(token.lstrip or token.rstrip or re.search(r"\s", token.content) for token in added)
    if not rules <= _CUTTING_RULES or not normal <= {"NFC"} or reaching:
        return False

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return all(
        encode(sample) == encode(sample[: cut.start()]) + encode(sample[cut.start() :])
        for sample in _SAMPLES
        for cut in _CUT.finditer(sample)
    )


def _kinds(part: Any) -> set[str]:
    """The names of all rules in a part of a backend."""

    def walk(state: Any) -> set[str]:
        if isinstance(state, dict):
            own = {state["type"]} if isinstance(state.get("type"), str) else set()
            return own.union(*(walk(value) for value in state.values()))
        return set().union(*(walk(value) for value in state)) if isinstance(state, list) else set()

    return walk(json.loads(part.__getstate__()))
