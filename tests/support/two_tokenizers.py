"""Pairs of models whose tokenizers differ, and a slow reference for what one makes of the other's text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import torch
from tiny_models import tiny_model

from outlex.models import LanguageModel

QWEN_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES = [
    *(" again", "again", " and", " in", "side", " emoji", "def", " return", "un", "believ", "able", "x", "Σ"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028"),
    *("'", "l", "'ll", "'s", "123", "4567", ".", "(", ")\n", "_", "½", "=" * 9, "{}", "<|im_end|>"),
    *("🙂", "🙂🙂", "日本", "語", "。", "é", "café", "cafe", "\u0301", "\u0323", "한", "ᄒ", "ᅡ", "क", "\u093c"),
]
_ENDINGS = [bytes(rest) for n in (1, 2, 3) for rest in product((0x80, 0x90, 0xA0, 0xBF), repeat=n)]


@cache
def letters(pieces: tuple[str, ...]) -> Any:
    """A byte-level tokenizer of exactly these pieces, longer ones made of two others, and an end of sequence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = [
        next((piece[:n], piece[n:]) for n in range(1, len(piece)) if {piece[:n], piece[n:]} <= set(pieces))
        for piece in pieces
        if len(piece) > 1
    ]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def with_tokenizer(tokenizer: Any, *, dtype: torch.dtype = torch.float32, **settings: Any) -> LanguageModel:
    """A random model as wide as its tokenizer; `settings` as in `tiny_model`."""
    made = tiny_model(**{"n_rows": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **settings})
    model: Any = made.model
    return replace(made, tokenizer=tokenizer, model=model.to(dtype), dtype=dtype)


def qwen_like(tokenizer: Any) -> Any:
    """The same pieces, with the rule and the normalisation of Qwen's tokenizers; changes it in place."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_RULE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def reference_ids(data: bytes, tokenizer: Any, byte_ids: Mapping[bytes, int]) -> list[int]:
    """All of a text at once: characters as the tokenizer encodes them, other bytes one by one.

    Args:
        data: without special tokens.
        tokenizer: it must take no part of the text for a special token.
        byte_ids: the tokenizer's tokens by their bytes.
    """
    n_open = next((n for n in (3, 2, 1) if _begins_character(data[-n:]) and len(data) >= n), 0)
    text, rest = data[: len(data) - n_open].decode("utf-8", "surrogateescape"), data[len(data) - n_open :]
    ids: list[int] = []
    for part in re.findall("[\udc80-\udcff]+|[^\udc80-\udcff]+", text):
        if part[0] >= "\udc80" and part[0] <= "\udcff":
            ids += single_bytes(part.encode("utf-8", "surrogateescape"), byte_ids)
        else:
            ids += tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + ([byte_ids[rest]] if rest in byte_ids else single_bytes(rest, byte_ids))


def single_bytes(data: bytes, byte_ids: Mapping[bytes, int]) -> list[int]:
    return [byte_ids[bytes([byte])] for byte in data if bytes([byte]) in byte_ids]


def chunks(ids: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """`ids` cut into pieces of these sizes, again and again."""
    found, start, n = [], 0, 0
    while start < len(ids):
        size = sizes[n % len(sizes)]
        found.append(list(ids[start : start + size]))
        start, n = start + size, n + 1
    return found


def _begins_character(data: bytes) -> bool:
    if not data or data[0] < 0xC2:
        return False
    return any(_is_one_character(data + ending) for ending in _ENDINGS)


def _is_one_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
