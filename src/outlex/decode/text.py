"""Tokens to text as they come, and the stop strings that may end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outlex.errors import InputError

__all__ = ["TextStream"]

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Detokenises one token at a time and watches for stop strings.

    Text is held back while it may still change (a character whose bytes are not complete) or may turn out to be the
    beginning of a stop string. A stop string and what follows it are not part of the text.

    Args:
        decode: token ids -> text.
        stop_strings: each non-empty.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop_strings: Sequence[str] = ()) -> None:
        if any(not isinstance(s, str) or not s for s in stop_strings):
            raise InputError("A stop string is empty or not text", got=list(stop_strings), expected="non-empty strings")
        self._decode = decode
        self._stops = tuple(stop_strings)
        self._ids: list[int] = []
        self._n_settled_ids = 0  # ids whose text is in `_text`
        self._window = 0  # decoding starts here: tokenizers join a piece to the one before it (spaces, byte runs)
        self._text = ""
        self._n_sent = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far, stop strings cut off."""
        return self._text

    def push(self, token_id: int) -> bool:
        """Add a token; True if it completed a stop string."""
        self._ids.append(token_id)
        self._settle(final=False)
        return self.stopped

    def take(self) -> str:
        """New text that is certain not to change."""
        end = len(self._text) if self.stopped else len(self._text) - self._n_held_back()
        piece = self._text[self._n_sent : end]
        self._n_sent = max(self._n_sent, end)
        return piece

    def finish(self) -> str:
        """No token will follow: the text that was held back."""
        self._settle(final=True)
        piece = self._text[self._n_sent :]
        self._n_sent = len(self._text)
        return piece

    def _settle(self, *, final: bool) -> None:
        if self.stopped or self._n_settled_ids == len(self._ids):
            return
        before = self._decode(self._ids[self._window : self._n_settled_ids])
        after = self._decode(self._ids[self._window :])
        if after.endswith(_UNFINISHED) and not final:
            return
        start = len(self._text)
        self._text += after[len(before) :]
        self._window, self._n_settled_ids = self._n_settled_ids, len(self._ids)
        self._find_stop(start)

    def _find_stop(self, start: int) -> None:
        found = [self._text.find(stop, max(0, start - len(stop) + 1)) for stop in self._stops]
        hits = [at for at in found if at >= 0]
        if hits:
            self._text = self._text[: min(hits)]
            self.stopped = True

    def _n_held_back(self) -> int:
        """Length of the longest tail of the text that begins some stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for n in range(min(longest, len(self._text)), 0, -1):
            tail = self._text[-n:]
            if any(stop.startswith(tail) for stop in self._stops):
                return n
        return 0
