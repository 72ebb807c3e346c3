"""The tokenizer as the counting processes use it: plain values to send, and the Rust object they make of them."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from outlex.calibration.segments import Ids, SegmentTable, SplitRule, find_rule
from outlex.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoder", "EncodingSpec", "Ids", "spec_of"]


@dataclass(frozen=True, kw_only=True)
class EncodingSpec:
    """What a process needs to turn records into token ids.

    Attributes:
        tokenizer: the tokenizer as the JSON of the tokenizers library.
        n_entries: ids from 0 to the last real piece.
        fingerprint: `TokenizerFacts.fingerprint`.
        chat_template: None if the model has none.
        special_tokens: what a template may ask for by name, such as ``bos_token``.
        special_texts: how special tokens are written.
        split_rule: where texts may be cut before they are encoded; it changes the speed and no number.
        chats: by the template, or the assistant's contents alone.
        text_field: the field with the text; None tries ``messages``, ``text`` and ``prompt``.
        domain_field: the field with the domain.
        on_error: whether a record that cannot be used ends the work.
    """

    tokenizer: str = field(repr=False)
    n_entries: int
    fingerprint: str
    chat_template: str | None = field(repr=False)
    special_tokens: tuple[tuple[str, str], ...]
    special_texts: tuple[str, ...] = field(repr=False)
    split_rule: SplitRule | None = field(default=None, repr=False)
    chats: Literal["template", "content"] = "template"
    text_field: str | None = None
    domain_field: str = "domain"
    on_error: Literal["stop", "skip"] = "stop"

    def digest(self) -> str:
        """sha256 over everything that decides what is counted."""
        values = [self.tokenizer, self.n_entries, self.fingerprint, self.chat_template, self.special_tokens]
        values += [self.special_texts, self.chats, self.text_field, self.domain_field]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def spec_of(
    tokenizer: PreTrainedTokenizerBase,
    *,
    chats: Literal["template", "content"] = "template",
    text_field: str | None = None,
    domain_field: str = "domain",
    on_error: Literal["stop", "skip"] = "stop",
) -> EncodingSpec:
    """Take a transformers tokenizer apart.

    Truncation, padding and the post-processor go: the first two change what is counted, and the last one only adds
    begin and end tokens, which are not counted, and moves offsets, which a mask must not have.

    Raises:
        InputError: the tokenizer is not one that the tokenizers library runs.
    """
    from outlex.vocab.tokenizer_facts import facts_of

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            "Counting needs a tokenizer that the tokenizers library can run",
            got=type(tokenizer).__name__,
            expected="a tokenizer with a tokenizer.json file",
            next_step="convert it once with transformers: save_pretrained writes tokenizer.json if it can",
        )
    facts = facts_of(tokenizer)
    state: dict[str, Any] = json.loads(backend.to_str())
    state.update(truncation=None, padding=None, post_processor=None)
    # Filler pieces of a padded head are no tokens; a text that spells one must come out as the original's tokens.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < facts.n_entries]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    named = {name: str(text) for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    texts = {facts.pieces[index] for index in facts.special_ids}
    return EncodingSpec(
        tokenizer=json.dumps(state, ensure_ascii=False),
        n_entries=facts.n_entries,
        fingerprint=facts.fingerprint,
        chat_template=template,
        special_tokens=tuple(sorted(named.items())),
        special_texts=tuple(sorted(text for text in texts if text)),
        split_rule=find_rule(state),
        chats=chats,
        text_field=text_field,
        domain_field=domain_field,
        on_error=on_error,
    )


class Encoder:
    """The tokenizers library, told to add nothing and to cut nothing off."""

    def __init__(self, spec: EncodingSpec) -> None:
        from tokenizers import Tokenizer

        self.spec = spec
        self._backend = Tokenizer.from_str(spec.tokenizer)
        self._table = None
        if spec.split_rule is not None:
            self._table = SegmentTable(spec.split_rule, self._encode_whole, model=self._backend.model)

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """Ids of all texts one after the other, int64 ``[n]``, and how many each text has, int64 ``[n_texts]``."""
        return _joined(self._encode_whole(list(texts))) if self._table is None else self._table.encode(texts)

    def _encode_whole(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_spans(self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> tuple[Ids, Ids]:
        """Like `encode`, but of each text only the tokens that lie in one of its spans with all their characters.

        Args:
            texts: whole texts: a token can depend on what stands beside it.
            spans: for each text, character ranges ``[begin, end)``, ascending and apart.
        """
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        chosen: list[list[int]] = []
        for encoding, ranges in zip(encodings, spans, strict=True):
            ids, offsets = encoding.ids, encoding.offsets
            kept: list[int] = []
            for begin, end in ranges:
                # Offsets ascend. Tokens of one character's bytes all have that character's offsets.
                first, last = bisect_left(offsets, (begin, -1)), bisect_left(offsets, (end, -1))
                while last > first and offsets[last - 1][1] > end:
                    last -= 1
                kept += ids[first:last]
            chosen.append(kept)
        return _joined(chosen)


def _joined(lists: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(lengths.sum())), lengths
