"""Where a run keeps its texts: shards of JSON lines that appear whole or not at all, so that a run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["append_shard", "read_shards", "write_json"]


def read_shards(directory: Path, stem: str) -> Iterator[dict[str, Any]]:
    """Records of `stem-00000.jsonl`, `stem-00001.jsonl` ... in this order."""
    for path in sorted(directory.glob(f"{stem}-*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def append_shard(directory: Path, stem: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the next shard; nothing is written for no records."""
    if records:
        number = len(list(directory.glob(f"{stem}-*.jsonl")))
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        _write(directory / f"{stem}-{number:05d}.jsonl", text)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step."""
    _write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
