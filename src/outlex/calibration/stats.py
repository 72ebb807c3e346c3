"""`TokenStats`: how often each token occurs, and in how many documents, apart for each domain."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outlex import __version__
from outlex.atomic import make_directories, replace_file, sync_directory
from outlex.errors import ArtifactError, InputError, MismatchError

__all__ = ["TokenStats"]

SCHEMA = 1
KIND = "token-stats"
_KEY = "outlex"
_LISTS = ("domains", "n_documents", "weights", "sources", "parts")
_KEYS = {"kind", "schema", "tokenizer_fingerprint", "n_entries", "n_tokens", "outlex", *_LISTS}


@dataclass(frozen=True, kw_only=True)
class TokenStats:
    """Counts of tokens in a corpus. Two of them can be merged if they are of one tokenizer.

    Attributes:
        domains: names, ascending; row d of each tensor belongs to ``domains[d]``.
        counts: int64 ``[n_domains, n_entries]``: occurrences.
        documents: int64 ``[n_domains, n_entries]``: documents with at least one occurrence.
        n_documents: documents of each domain that had any token.
        weights: what a count of each domain is worth in `total`.
        tokenizer_fingerprint: `TokenizerFacts.fingerprint` of the tokenizer.
        sources: JSON objects, one for each source: as it was given, its size, what was skipped.
        parts: sha256 of each counting run that is in here, so that none is added twice; empty computes it.

    Raises:
        InputError: shapes, dtypes or numbers that cannot come from counting.
    """

    domains: tuple[str, ...]
    counts: Tensor = field(repr=False)
    documents: Tensor = field(repr=False)
    n_documents: tuple[int, ...]
    weights: tuple[float, ...]
    tokenizer_fingerprint: str
    sources: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise InputError(
                f"These token statistics cannot come from counting: {problem}",
                expected="one row a domain, counts of at least 0, no token in more documents than there are",
                next_step="make them with outlex count, or with TokenStats.merge",
            )
        if not self.parts:
            object.__setattr__(self, "parts", (self._digest(),))

    @property
    def n_entries(self) -> int:
        """Entries of the tokenizer."""
        return int(self.counts.shape[1])

    @property
    def n_tokens(self) -> tuple[int, ...]:
        """Tokens counted in each domain."""
        return tuple(self.counts.sum(dim=1).tolist())

    def total(self, *, weighted: bool = True) -> Tensor:
        """Σ_d w_d · counts_d, or the plain sum: float64 ``[n_entries]``."""
        weights = torch.tensor(self.weights if weighted else [1.0] * len(self.domains), dtype=torch.float64)
        return (self.counts.double() * weights[:, None]).sum(dim=0)

    def with_weights(self, weights: Mapping[str, float]) -> TokenStats:
        """The same counts with other weights for the domains named.

        Raises:
            InputError: a domain that is not in here, or a weight below 0.
        """
        unknown = sorted(set(weights) - set(self.domains))
        if unknown:
            raise InputError(
                "A weight names a domain that was not counted",
                got=", ".join(unknown),
                expected=f"one of {', '.join(self.domains):.300}",
                next_step="correct the name after --weight",
            )
        pairs = zip(self.domains, self.weights, strict=True)
        return replace(self, weights=tuple(float(weights.get(name, weight)) for name, weight in pairs))

    def merge(self, others: Iterable[TokenStats], *, weights: Mapping[str, float] | None = None) -> TokenStats:
        """These counts and the others' added up, domain by domain.

        Args:
            others: statistics of the same tokenizer.
            weights: by domain; needed where the parts disagree about a domain's weight.

        Raises:
            MismatchError: they are of different tokenizers.
            InputError: a counting run is in two of them, or they disagree about a weight.
        """
        everything = [self, *others]
        _check_mergeable(everything)
        chosen = _merged_weights(everything, weights or {})
        names = sorted(chosen)
        row_of = {name: row for row, name in enumerate(names)}
        counts = torch.zeros(len(names), self.n_entries, dtype=torch.int64)
        documents, n_documents = torch.zeros_like(counts), [0] * len(names)
        for stats in everything:
            rows = torch.tensor([row_of[name] for name in stats.domains])
            counts.index_add_(0, rows, stats.counts)
            documents.index_add_(0, rows, stats.documents)
            for name, n in zip(stats.domains, stats.n_documents, strict=True):
                n_documents[row_of[name]] += n
        return TokenStats(
            domains=tuple(names),
            counts=counts,
            documents=documents,
            n_documents=tuple(n_documents),
            weights=tuple(chosen[name] for name in names),
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            sources=tuple(source for stats in everything for source in stats.sources),
            parts=tuple(sorted(part for stats in everything for part in stats.parts)),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; equal statistics give equal bytes.

        Raises:
            ArtifactError: the disk refuses; an older file is still whole.
        """
        from safetensors.torch import save

        path = Path(path)
        tensors = {"counts": self.counts.contiguous(), "documents": self.documents.contiguous()}
        data = save(tensors, metadata={_KEY: json.dumps(self._body(), sort_keys=True, allow_nan=False)})
        try:
            make_directories(path.parent)
            replace_file(path, data)
            sync_directory(path.parent)
        except OSError as error:
            raise ArtifactError(
                f"The token statistics cannot be written to {path}",
                got=error,
                expected="a folder that can be written to, and room in it",
                next_step="free some space, or choose another file with -o",
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenStats:
        """Read what `save` wrote.

        Raises:
            ArtifactError: missing, truncated, changed, or no statistics of this version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                body = json.loads((file.metadata() or {})[_KEY])
                if not isinstance(body, dict) or (body.get("kind"), body.get("schema")) != (KIND, SCHEMA):
                    raise ValueError("not of this kind and schema")
                if set(body) != _KEYS:
                    raise ValueError(f"unknown or missing keys: {sorted(set(body) ^ _KEYS)}")
                stats = cls(
                    counts=file.get_tensor("counts"),
                    documents=file.get_tensor("documents"),
                    tokenizer_fingerprint=body["tokenizer_fingerprint"],
                    **{name: tuple(body[name]) for name in _LISTS},
                )
                if (stats.n_entries, list(stats.n_tokens)) != (body["n_entries"], body["n_tokens"]):
                    raise ValueError("the counts do not add up to what the file says")
                return stats
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactError(
                f"{path} is not a file of token statistics, or is damaged",
                got=str(error).partition("\n")[0],
                expected=f"{KIND}, schema {SCHEMA}, whole and as it was written",
                next_step="give a file that outlex count or outlex merge wrote, or count again",
            ) from error

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": KIND, "schema": SCHEMA, "outlex": __version__}
        body.update((name, list(getattr(self, name))) for name in _LISTS)
        body["sources"] = [dict(source) for source in self.sources]
        body.update(
            tokenizer_fingerprint=self.tokenizer_fingerprint, n_entries=self.n_entries, n_tokens=list(self.n_tokens)
        )
        return body

    def _digest(self) -> str:
        """Of what was found; not of weights, which can change, nor of paths, which can be spelled in many ways."""
        digest = hashlib.sha256()
        head = [self.domains, self.n_documents, self.tokenizer_fingerprint]
        digest.update(json.dumps(head, sort_keys=True).encode())
        for tensor in (self.counts, self.documents):
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def _problem(stats: TokenStats) -> str | None:
    """What is impossible about these values, or None."""
    shape = (len(stats.domains), stats.counts.shape[-1] if stats.counts.ndim else 0)
    for name in ("counts", "documents"):
        tensor: Tensor = getattr(stats, name)
        if tensor.dtype != torch.int64 or tuple(tensor.shape) != shape or tensor.device.type != "cpu":
            return f"{name} is {tensor.dtype} {list(tensor.shape)} for {shape[0]} domains"
    if not stats.domains or not shape[1] or list(stats.domains) != sorted(set(stats.domains)):
        return f"domains {stats.domains!r:.200}, {shape[1]} entries"
    if not _of_length(stats.n_documents, shape[0], int) or not _of_length(stats.weights, shape[0], float, int):
        return f"n_documents {stats.n_documents!r:.200}, weights {stats.weights!r:.200}"
    if not all(math.isfinite(weight) and weight >= 0 for weight in stats.weights):
        return f"weights {stats.weights!r:.200}, and they must be finite and at least 0"
    limit = torch.tensor(stats.n_documents)[:, None]
    possible = (stats.documents >= 0) & (stats.documents <= stats.counts) & (stats.documents <= limit)
    if not bool(possible.all()) or not bool(((stats.counts > 0) == (stats.documents > 0)).all()):
        return "counts and documents contradict each other"
    return None


def _of_length(values: Sequence[object], n: int, *types: type) -> bool:
    return len(values) == n and all(type(value) in types for value in values)


def _check_mergeable(everything: Sequence[TokenStats]) -> None:
    tokenizers = dict.fromkeys((stats.tokenizer_fingerprint, stats.n_entries) for stats in everything)
    if len(tokenizers) > 1:
        raise MismatchError(
            "Counts of different tokenizers cannot be merged: an id means another token in each",
            got="; ".join(f"{fingerprint[:12]} with {n} entries" for fingerprint, n in tokenizers),
            expected="one tokenizer",
            next_step="count all corpora with the --tokenizer of the target",
        )
    parts = [part for stats in everything for part in stats.parts]
    twice = sorted({part[:12] for part in parts if parts.count(part) > 1})
    if twice:
        raise InputError(
            "The same counts would be added twice",
            got=f"counting run {', '.join(twice)} is in more than one of the files",
            expected="every counting run once",
            next_step="leave one of the files out; to count a corpus more strongly, give its domain a --weight",
        )


def _merged_weights(everything: Sequence[TokenStats], given: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, set[float]] = {}
    for stats in everything:
        for name, weight in zip(stats.domains, stats.weights, strict=True):
            found.setdefault(name, set()).add(float(weight))
    unknown = sorted(set(given) - set(found))
    if unknown:
        raise InputError(
            "A weight names a domain that is in none of the files",
            got=", ".join(unknown),
            expected=f"one of {', '.join(sorted(found)):.300}",
            next_step="correct the name after --weight",
        )
    chosen: dict[str, float] = {}
    for name, weights in found.items():
        if name not in given and len(weights) > 1:
            raise InputError(
                f"The files give the domain {name} different weights",
                got=", ".join(f"{weight:g}" for weight in sorted(weights)),
                expected="one weight",
                next_step=f"say which with --weight {name}=W",
            )
        chosen[name] = float(given[name]) if name in given else next(iter(weights))
    return chosen
