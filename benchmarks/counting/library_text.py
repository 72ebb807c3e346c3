"""Text that is at hand: Python's standard library and the installed packages, sources and docstrings.

That is 30 MB and, with this project's environment, some 200 MB more. From the second round on, every sixteenth long
word gets a new ending, another choice of words each round, so that a corpus of any size keeps showing words nobody has
seen, as real ones do, though fewer.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from zlib import crc32

__all__ = ["documents"]

_LONG_WORD = re.compile(r"[A-Za-z]{6,}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documents() -> Iterator[str]:
    """Functions, classes and paragraphs of some hundred characters, without end; the first round is as it is."""
    library, packages = (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib"))
    paths = [path for path in sorted(library.rglob("*.py")) if "site-packages" not in path.parts]
    paths += sorted(packages.rglob("*.py"))
    number = 0
    while True:
        for path in paths:
            text = path.read_text(encoding="utf-8", errors="ignore")
            for part in text.split("\n\n\n"):
                if part.strip():
                    yield part if number == 0 else _LONG_WORD.sub(partial(_varied, number=number), part)
        number += 1


def _varied(match: re.Match[str], *, number: int) -> str:
    word = match[0]
    if crc32(word.encode(), number) % 16:
        return word
    return word + _LETTERS[number % 26] + _LETTERS[number // 26 % 26]
