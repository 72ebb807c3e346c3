"""Which prompts must not be trained on: those that share a run of words with a held-out prompt, and repetitions."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["PromptFilter"]

_RUN = 13  # words; what GPT-3's and later decontaminations use
_WORD = re.compile(r"\w+")


class PromptFilter:
    """Accepts a prompt once, and only if it shares no run of 13 words with a held-out one; shorter ones count whole.

    Args:
        held_out: the prompts that must stay unseen.
    """

    def __init__(self, held_out: Iterable[str]) -> None:
        self._held_out = {run for text in held_out for run in _runs(text)}
        self._seen: set[tuple[str, ...]] = set()

    def accepts(self, text: str) -> bool:
        """Whether the prompt is new and unlike the held-out ones; asking again about the same prompt gives no."""
        words = tuple(_WORD.findall(text.lower()))
        if not words or words in self._seen or any(run in self._held_out for run in _runs(text)):
            return False
        self._seen.add(words)
        return True


def _runs(text: str) -> Iterable[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return (tuple(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1)))
