"""Token rankings from the files people have."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outlex.errors import ArtifactError, InputError, MismatchError
from outlex.vocab.counts import count_tokens, rank_by_counts
from outlex.vocab.sub_vocab import SubVocab

__all__ = ["Ranking", "count_tokens", "rank_by_counts", "read_ranking"]

_NUMBER = re.compile(r"[0-9]{1,18}")  # fits int64
_LARGEST_COUNT = 10**18
_FORMATS = (
    "a JSON list of ids, a JSON object of counts by id, lines 'id' or 'id<TAB>count', "
    "a safetensors file with 'counts', or a sub-vocabulary directory"
)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Token ids by how often they are needed.

    Attributes:
        ids: int64 ``[n]``, hottest first, each once; ids that were never seen are not in it.
        counts: ``[n_tokenizer]``, int64 or float64, or ``None`` when only the order is known.
        provenance: JSON object: name, sha256 and format of the source.
    """

    ids: Tensor = field(repr=False)
    counts: Tensor | None = field(repr=False)
    provenance: dict[str, Any]


def read_ranking(path: str | os.PathLike[str], *, n_tokenizer: int) -> Ranking:
    """Read a ranking from a file or a sub-vocabulary directory; the contents tell the format.

    Args:
        path: a JSON list of ids (hottest first), a JSON object ``{"id": count}``, text with one ``id``
            or one ``id<TAB>count`` a line, a ``.safetensors`` file with a 1-d tensor ``counts``
            (``n_tokenizer`` long or longer, as long as the padding counts nothing) or one of `outlex count`,
            whose domains are added up by their weights, or a directory that `SubVocab.save` wrote.
        n_tokenizer: entries of the tokenizer that the ids belong to.

    Raises:
        ArtifactError: the file is missing, unreadable or damaged.
        InputError: what it says is no ranking; the message names the line or the entry.
        MismatchError: the sub-vocabulary is for a tokenizer of another size.
    """
    path = Path(path)
    if path.is_dir():
        return _from_sub_vocab(path, n_tokenizer)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"Cannot read the ranking {path}",
            got=error.strerror,
            expected=_FORMATS,
            next_step="check the path and its permissions",
        ) from error
    counts: Tensor | None = None
    if path.suffix == ".safetensors":
        name, counts = "safetensors counts", _safetensors_counts(path, data, n_tokenizer)
    else:
        text = _text(path, data)
        if path.suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
            name, found = _from_json(path, text)
        else:
            name, found = _from_lines(path, text)
        entries = _checked(path, found, n_tokenizer)
        if name.endswith("counts"):
            counts = torch.zeros(n_tokenizer, dtype=torch.int64)
            counts[list(entries)] = torch.tensor(list(entries.values()), dtype=torch.int64)
    ids = torch.tensor(list(entries), dtype=torch.int64) if counts is None else rank_by_counts(counts)
    if not ids.numel():
        raise _bad(path, "nothing is ranked", "no ids, or all counts are 0", "at least one id")
    provenance = {
        "source": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": name,
        "n_ranked": ids.numel(),
    }
    return Ranking(ids=ids, counts=counts, provenance=provenance)


def _from_sub_vocab(path: Path, n_tokenizer: int) -> Ranking:
    vocab = SubVocab.load(path)
    if vocab.n_tokenizer != n_tokenizer:
        raise MismatchError(
            f"{path} was made for another tokenizer",
            got=f"{vocab.n_tokenizer} entries",
            expected=f"{n_tokenizer} entries",
            next_step="rank the tokens with the tokenizer of this target",
        )
    provenance = {
        "source": path.name,
        "sha256": vocab.fingerprint,
        "format": "sub-vocab",
        "n_ranked": vocab.n_draft,
        "ranking": dict(vocab.provenance),
    }
    return Ranking(ids=vocab.draft_to_target, counts=None, provenance=provenance)


def _safetensors_counts(path: Path, data: bytes, n_tokenizer: int) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path} is not a safetensors file, or is damaged",
            got=error,
            next_step="copy or make the file again",
        ) from error
    if "counts" not in tensors:
        raise _bad(path, "there is no tensor 'counts'", sorted(tensors)[:5], "a 1-d tensor 'counts'")
    counts: Tensor = tensors["counts"]
    if counts.ndim == 2:
        counts = _weighted_sum(path, data, counts)
    if counts.ndim != 1 or counts.numel() < n_tokenizer or counts.dtype == torch.bool or counts.is_complex():
        got = f"{counts.dtype} {list(counts.shape)}"
        raise _bad(path, "'counts' has the wrong dtype or shape", got, f"[{n_tokenizer}] of numbers")
    counts = counts.to(torch.float64 if counts.is_floating_point() else torch.int64)
    if not bool((counts >= 0).all()) or not bool((counts < float("inf")).all()):
        raise _bad(path, "a count is negative, NaN or infinite", None, "finite counts of at least 0")
    if bool(counts[n_tokenizer:].any()):
        raise _bad(path, "ids in the padding have counts", None, f"counts only for ids below {n_tokenizer}")
    return counts[:n_tokenizer].clone()


def _weighted_sum(path: Path, data: bytes, counts: Tensor) -> Tensor:
    """Σ_d w_d · counts_d for a file of `outlex count`; whole numbers stay whole if all weights are 1."""
    n_header = int.from_bytes(data[:8], "little")
    try:
        weights = json.loads(json.loads(data[8 : 8 + n_header])["__metadata__"]["outlex"])["weights"]
        factors = torch.tensor(weights, dtype=torch.float64)
    except (ValueError, KeyError, TypeError):
        return counts  # a matrix of something else, which the caller refuses
    if factors.shape != counts.shape[:1] or counts.dtype != torch.int64:
        got = f"{counts.dtype} {list(counts.shape)}, {len(factors)} weights"
        raise _bad(path, "'counts' does not fit its weights", got, "int64, one row for each weight")
    if bool((factors == 1).all()):
        return counts.sum(dim=0)
    return (counts.double() * factors[:, None]).sum(dim=0)


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArtifactError(
            f"{path} is not text", got=error, expected=_FORMATS, next_step="check that this is the right file"
        ) from error


# A place to name in an error, an id and a count (0 when only the order is known), none checked yet.
_Entries = Iterator[tuple[str, object, object]]


def _from_json(path: Path, text: str) -> tuple[str, _Entries]:
    try:
        # Pairs, because a plain dict would hide an id that is named twice.
        value = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not JSON, or is cut off",
            got=error,
            expected=_FORMATS,
            next_step="copy or make the file again",
        ) from error
    if isinstance(value, _Pairs):
        return "json counts", ((f"key {key!r:.40}", _number(key), count) for key, count in value)
    if isinstance(value, list):
        return "json ids", ((f"entry {place}", index, 0) for place, index in enumerate(value))
    raise _bad(path, "the JSON is no list and no object", type(value).__name__, _FORMATS)


def _from_lines(path: Path, text: str) -> tuple[str, _Entries]:
    rows = [(n, line.split("\t")) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    n_fields = len(rows[0][1]) if rows else 1
    for n, fields in rows:
        if len(fields) != n_fields or n_fields > 2:
            shape = "'id' or 'id<TAB>count'" if n == rows[0][0] else f"{n_fields} fields, as in the first line"
            raise _bad(path, f"line {n} has {len(fields)} fields", "\t".join(fields)[:60], shape)
    name = "text counts" if n_fields == 2 else "text ids"
    return name, ((f"line {n}", _number(row[0]), _number(row[1]) if len(row) == 2 else 0) for n, row in rows)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written."""


def _number(text: str) -> object:
    """The number that ``text`` writes in plain digits; anything else as it is, to be refused."""
    return int(text.strip()) if _NUMBER.fullmatch(text.strip()) else text


def _checked(path: Path, found: _Entries, n_tokenizer: int) -> dict[int, int]:
    """Counts by id in the order of the file."""
    entries: dict[int, int] = {}
    for place, index, count in found:
        if type(index) is not int or not 0 <= index < n_tokenizer:
            raise _bad(path, f"{place} is not an id", f"{index!r:.60}", f"0 to {n_tokenizer - 1}")
        if type(count) is not int or not 0 <= count <= _LARGEST_COUNT:
            raise _bad(path, f"{place} has no usable count", f"{count!r:.60}", "a whole number, 0 or more")
        if index in entries:
            raise _bad(path, f"{place} names an id a second time", index, "every id once")
        entries[index] = count
    return entries


def _bad(path: Path, what: str, got: object, expected: object) -> InputError:
    return InputError(
        f"{path} is not a usable ranking: {what}",
        got=got,
        expected=expected,
        next_step="correct the file; it takes token ids of the target's tokenizer, hottest first, or counts",
    )
