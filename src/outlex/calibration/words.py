"""The tokenizer's own words of plain text, each of them encoded once.

What the tokenizers library spends on a short text is mostly its splitter and its bookkeeping of offsets. For text of
printable ASCII, tabs and line ends, the splitters of GPT-2, Llama 3 and Qwen are ordinary regular expressions, in which
letters, digits and white space are the same characters to every engine. So words are found here, and the library's BPE
model is asked for the tokens of each new one. Any other text is none of this module's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["PLAIN_PATTERNS", "WordRule", "WordTable", "find_word_rule"]

_PLAIN = re.compile(r"[\t\n\r -~]{1,1000}")
_TO_BYTE_LEVEL = str.maketrans(
    {" ": "Ġ", "\n": "Ċ", "\r": "č", "\t": "ĉ"}
)  # other plain characters stand for themselves
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
_NOTHING = "(?!)"
# the splitters of Qwen 2 and 3 and of Llama 3, as their tokenizers have them -> for plain text
PLAIN_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    rf"\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nA-Za-z0-9]?[A-Za-z]+|"
        rf"[0-9]{digits}| ?[^\sA-Za-z0-9]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    for digits in ("", "{1,3}")
}


@dataclass(frozen=True, kw_only=True)
class WordRule:
    """How plain text falls into words.

    Attributes:
        digits: what is split off first, if anything: a pattern.
        words: pattern of one word of what is left.
        added: pattern of the added tokens, which are no words; text that spells one is left to the library.
    """

    digits: str | None
    words: str
    added: str


def find_word_rule(pre_tokenizer: dict[str, Any], added_tokens: Iterable[dict[str, Any]]) -> WordRule | None:
    """The rule for a byte-level BPE tokenizer that `find_rule` knows, by its splitter (JSON); None if it has none."""
    *before, last = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    kinds = [step["type"] for step in before]
    digits, words = None, _GPT2
    if kinds == ["Split"] and not last["use_regex"]:
        words = PLAIN_PATTERNS[before[0]["pattern"]["Regex"]]
    elif kinds == ["Digits"] and last["use_regex"]:
        digits = "([0-9])" if before[0]["individual_digits"] else "([0-9]+)"
    elif kinds or not last["use_regex"]:
        return None
    added = sorted({token["content"] for token in added_tokens if token["content"].isascii()})
    return WordRule(digits=digits, words=words, added="|".join(map(re.escape, added)) or _NOTHING)


class WordTable:
    """The ids of the words seen so far.

    Args:
        rule: of the tokenizer.
        model: the tokenizers library's model of it, `Tokenizer.model`.
    """

    def __init__(self, rule: WordRule, model: Any) -> None:
        self._digits = None if rule.digits is None else re.compile(rule.digits)
        self._words = re.compile(rule.words)
        self._added = re.compile(rule.added)
        self._model = model
        self._ids: dict[str, list[int]] = {}

    def clear(self) -> None:
        """Forget all words."""
        self._ids.clear()

    def encode(self, text: str) -> list[int] | None:
        """Ids of a text that is encoded on its own; None if it is not plain, or spells an added token."""
        if not _PLAIN.fullmatch(text) or self._added.search(text):
            return None
        if self._digits is None:
            words = self._words.findall(text)
        else:
            pieces = self._digits.split(text)
            words = [word for piece in pieces for word in self._words.findall(piece)]
        found: list[int] = []
        for word in words:
            ids = self._ids.get(word)
            if ids is None:
                ids = [token.id for token in self._model.tokenize(word.translate(_TO_BYTE_LEVEL))]
                self._ids[word] = ids
            found += ids
        return found
