"""Encoding each short stretch of text once: exact, and several times as fast as encoding everything.

Byte-level BPE tokenizers split a text into words by a regular expression before they look for tokens. Where a word ends
whatever stands around it, the text can be cut and its parts encoded apart. Natural text repeats its parts; a table of
the parts that were seen saves nearly all the work. Cuts are made

- after a letter or digit, before an ASCII character that is none and no apostrophe ("don't" can be one word);
- before a space with a letter behind it.

These are ends of words for the expressions of GPT-2 (SmolLM, too), Llama 3 and Qwen, and other tokenizers are not cut:
each of their alternatives that takes letters or digits ends behind them; the last space before a letter goes with the
letter, also where more spaces precede it, of which `\\s+(?!\\S)` takes all but the last, as it takes all at the end of
a part; and none looks back. NFC composes nothing across these places. Texts that spell an added token which a cut could
take apart are not cut: added tokens are looked for before words are.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outlex.calibration.words import PLAIN_PATTERNS, WordRule, WordTable, find_word_rule

__all__ = ["Ids", "SegmentTable", "SplitRule", "find_rule"]

Ids = NDArray[np.int64]
Encode = Callable[[list[str]], list[list[int]]]

# Letters of every version of Unicode since 5.0: Python's and the tokenizer library's versions differ in new ones.
_LETTER = (
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0400-\u0481\u048a-\u04ff"
    "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
_WORD = f"0-9{_LETTER}"
_STOP = r"\x00-&(-/:-@\[-`{-\x7f"  # ASCII without letters, digits and the apostrophe
# Letters and digits, and further if neither kind of cut follows them.
_REST = f"[{_WORD}]+(?:[^{_WORD}{_STOP}](?:[^{_WORD}]*(?= [{_LETTER}])|[^{_WORD}]*[{_WORD}]*))*"
_PARTS = re.compile(f" (?=[{_LETTER}]){_REST}|[^{_WORD}]+(?= [{_LETTER}])|[^{_WORD}]*{_REST}|[^{_WORD}]+")

_MAX_MARKERS = 48
_MAX_SEGMENTS = 300_000
_MAX_SEGMENT_CHARS = 8_000_000


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Where the texts of a tokenizer may be cut.

    Attributes:
        markers: texts that hold one of these are not cut.
        words: how plain parts fall into the tokenizer's words; None leaves them to the library.
    """

    markers: tuple[str, ...]
    words: WordRule | None = None

    def split(self, text: str) -> list[str]:
        """The parts of a text, in order."""
        return [text] if any(marker in text for marker in self.markers) else _PARTS.findall(text)


def find_rule(state: dict[str, Any]) -> SplitRule | None:
    """The rule for a tokenizer, given as its JSON; None if it is not certain that cuts change no token."""
    model = state["model"]
    is_plain = model["type"] == "BPE" and not any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if not is_plain or state["normalizer"] not in (None, {"type": "NFC"}) or not _splits_words(state["pre_tokenizer"]):
        return None
    added = state["added_tokens"]
    return SplitRule(markers=_markers(added), words=find_word_rule(state["pre_tokenizer"], added))


def _splits_words(splitter: dict[str, Any] | None) -> bool:
    if splitter is None:
        return False
    *before, last = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return False
    splits = [step for step in before if step["type"] != "Digits"]
    known = all(
        step["type"] == "Split"
        and step["pattern"].get("Regex") in PLAIN_PATTERNS
        and step["behavior"] == "Isolated"
        and not step["invert"]
        for step in splits
    )
    return known and (bool(splits) or last["use_regex"])


def _markers(added: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Beginnings of the added tokens that a cut could take apart, few enough to look for each of them in every text."""
    contents = {
        spelling
        for token in added
        for spelling in (token["content"], unicodedata.normalize("NFC", token["content"]))
        if token["lstrip"] or token["rstrip"] or token["single_word"] or _could_be_cut(spelling)
    }
    length = max(map(len, contents), default=0)
    while len(contents) > _MAX_MARKERS and length > 1:
        length -= 1
        contents = {content[:length] for content in contents}
    return tuple(sorted(contents))


def _could_be_cut(text: str) -> bool:
    # whether there is a cut before a last space depends on what follows it
    return len(_PARTS.findall(text)) > 1 or (text.endswith(" ") and len(_PARTS.findall(f"{text}a")) > 1)


class SegmentTable:
    """The ids of the parts seen so far. Starts anew when it is full, so that its memory stays flat.

    Args:
        rule: where texts are cut.
        encode: the library's encoding of whole texts.
        model: the library's model, see `WordTable`.
    """

    def __init__(self, rule: SplitRule, encode: Encode, *, model: Any) -> None:
        self._rule = rule
        self._encode = encode
        self._words = None if rule.words is None else WordTable(rule.words, model)
        self._clear()

    def encode(self, texts: Iterable[str]) -> tuple[Ids, Ids]:
        """Ids of all texts one after the other, int64 ``[n]``, and how many each text has, int64 ``[n_texts]``."""
        if len(self._place) > _MAX_SEGMENTS or self._n_chars > _MAX_SEGMENT_CHARS:
            self._clear()
        parts: list[str] = []
        n_parts: list[int] = []
        for text in texts:
            split = self._rule.split(text)
            parts += split
            n_parts.append(len(split))
        self._learn(list(set(parts).difference(self._place)))
        places = np.fromiter(map(self._place.__getitem__, parts), dtype=np.int64, count=len(parts))
        starts = np.frombuffer(self._starts, dtype=np.int64)
        begins, lengths = starts[places], starts[places + 1] - starts[places]
        ends = np.cumsum(lengths)
        n_ids = int(ends[-1]) if len(ends) else 0
        # position of each id in the table: its part's begin, plus how far into the part it is
        at = np.repeat(begins - (ends - lengths), lengths) + np.arange(n_ids, dtype=np.int64)
        ids = np.frombuffer(self._ids, dtype=np.int64)[at]
        firsts = np.cumsum([0, *n_parts])
        all_ends = np.concatenate([[0], ends])
        return ids, all_ends[firsts[1:]] - all_ends[firsts[:-1]]

    def _learn(self, new: list[str]) -> None:
        others = new
        if self._words is not None:
            others = []
            for part in new:
                ids = self._words.encode(part)
                if ids is None:
                    others.append(part)
                else:
                    self._add(part, ids)
        for part, ids in zip(others, self._encode(others), strict=True):
            self._add(part, ids)

    def _add(self, part: str, ids: list[int]) -> None:
        self._place[part] = len(self._place)
        self._ids.extend(ids)
        self._starts.append(len(self._ids))
        self._n_chars += len(part)

    def _clear(self) -> None:
        self._place: dict[str, int] = {}
        self._ids = array("q")
        self._starts = array("q", [0])
        self._n_chars = 0
        if self._words is not None:
            self._words.clear()
