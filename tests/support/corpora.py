"""Small corpora on disk, a tokenizer that can chat, and limits on what a file may grow to."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("river", "mill", "café", "return", "123", "日本", "🙂", "and", "again", "fox,", "naïve", "\t", "dog.\n", "  x")


def with_template(tokenizer: Any, template: str | None) -> Any:
    """A copy of the tokenizer with another chat template."""
    copy = deepcopy(tokenizer)
    copy.chat_template = template
    return copy


def sentence(seed: int, n_words: int) -> str:
    """Words in an order that depends on the seed alone."""
    return " ".join(WORDS[(seed * 7 + place * place * 3 + place) % len(WORDS)] for place in range(n_words))


def write_jsonl(path: Path, records: Sequence[Any]) -> Path:
    """One JSON value a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def chat(*turns: str) -> dict[str, Any]:
    """A record with a chat; the user begins and they take turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """Within it no file can grow beyond this, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
