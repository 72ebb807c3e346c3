"""Every error that outlex raises on purpose.

    OutlexError
    ├── InputError            an argument, option or prompt that cannot be used
    ├── ModelError            a model that cannot be found, loaded or driven
    │   └── DownloadError     a file that could not be fetched, or is not the one that was pinned
    ├── VocabError            a sub-vocabulary that breaks an invariant
    │   └── MismatchError     two things that must belong together and do not (tokenizer, head, sizes)
    ├── ArtifactError         a file on disk that is missing, truncated, corrupted or of another format
    └── NumericalError        NaN or infinity where a probability has to come from

A message answers four questions, in this order: what happened, what was got, what was expected, what to do next.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "DownloadError",
    "InputError",
    "MismatchError",
    "ModelError",
    "NumericalError",
    "OutlexError",
    "VocabError",
]


class OutlexError(Exception):
    """Root of the tree.

    Args:
        what: what happened, one sentence without a final full stop.
        got: the offending value, short enough to print.
        expected: what would have been accepted.
        next_step: what the reader can do about it.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, next_step: str | None = None) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.next_step = next_step
        lines = [what]
        if got is not None:
            lines.append(f"  got:      {got}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if next_step is not None:
            lines.append(f"  next:     {next_step}")
        super().__init__("\n".join(lines))


class InputError(OutlexError, ValueError):
    """An argument, option or prompt that cannot be used."""


class ModelError(OutlexError):
    """A model that cannot be found, loaded or driven."""


class DownloadError(ModelError):
    """A file that could not be fetched, or whose contents are not the pinned ones."""


class VocabError(OutlexError, ValueError):
    """A sub-vocabulary that breaks one of its invariants."""


class MismatchError(VocabError):
    """Two things that must belong together and do not: tokenizers, heads, widths."""


class ArtifactError(OutlexError):
    """A file on disk that is missing, truncated, corrupted or of another format."""


class NumericalError(OutlexError, ArithmeticError):
    """NaN or infinity where a probability has to come from."""
