"""What a map says in tokens: names, must-keep tokens that are missing, coverage of counted text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from outlex.calibration.stats import TokenStats
from outlex.errors import MismatchError
from outlex.formats.base import MapFile
from outlex.vocab.must_keep import MustKeep
from outlex.vocab.tokenizer_facts import TokenizerFacts, piece_bytes

__all__ = ["Names", "coverage", "missing_must_keep"]


@dataclass(frozen=True, kw_only=True)
class Names:
    """How the tokens of one tokenizer are printed."""

    facts: TokenizerFacts
    _bytes: list[bytes | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bytes", piece_bytes(self.facts))

    def of(self, token_id: int) -> str:
        """The text in quotes; `byte 0xE4` for a piece of a character; the bare piece for a special token."""
        if not 0 <= token_id < self.facts.n_entries or self.facts.pieces[token_id] is None:
            return f"id {token_id}, no token"
        data = self._bytes[token_id]
        if data is None:
            return str(self.facts.pieces[token_id])
        try:
            return repr(data.decode("utf-8"))
        except UnicodeDecodeError:
            return "byte " + " ".join(f"0x{byte:02X}" for byte in data)

    def of_all(self, token_ids: Iterable[int]) -> list[str]:
        """Of each."""
        return [self.of(token_id) for token_id in token_ids]


def missing_must_keep(ids: Tensor, policy: MustKeep, *, n_target: int | None) -> dict[str, list[int]]:
    """Must-keep ids without a row, by reason, ascending. Ids beyond the head can have none and do not count.

    Args:
        ids: int64 ``[n_draft]``.
        policy: of the target's tokenizer.
        n_target: width of the target's head; None if unknown.
    """
    kept = set(ids.tolist())
    limit = n_target if n_target is not None else max((*policy.ids, 0)) + 1
    return {
        reason: [token_id for token_id in wanted if token_id < limit and token_id not in kept]
        for reason, wanted in policy.reasons.items()
        if wanted
    }


def coverage(map_file: MapFile, stats: TokenStats, *, facts: TokenizerFacts | None) -> dict[str, Any]:
    """Share of the counted tokens that have a row: of all domains by their weights, and of each.

    Args:
        map_file: the map.
        stats: counts of a corpus.
        facts: of the target's tokenizer, to prove that the counts are of the same tokens; None if unknown.

    Raises:
        MismatchError: the statistics are of another tokenizer than `facts`, or than the map where it says its own.
    """
    n_counted, counted = stats.n_entries, stats.tokenizer_fingerprint
    if facts is not None:
        # A tokenizer with tokens added at the end keeps the meaning of all ids before them.
        fine = facts.n_entries >= n_counted and facts.fingerprint_of_first(n_counted) == counted
    else:
        fine = map_file.tokenizer_fingerprint in (None, counted)
    if not fine:
        n_entries, fingerprint = map_file.n_tokenizer, map_file.tokenizer_fingerprint or ""
        if facts is not None:
            n_entries, fingerprint = facts.n_entries, facts.fingerprint
        raise MismatchError(
            "The token statistics were counted with another tokenizer",
            got=f"{n_counted} entries, fingerprint {counted[:12]}",
            expected=f"{n_entries} entries, fingerprint {fingerprint[:12]}",
            next_step="count again with 'outlex count --tokenizer' and this model",
        )
    inside = torch.zeros(stats.n_entries, dtype=torch.bool)
    inside[map_file.ids[map_file.ids < stats.n_entries]] = True
    return {
        "total": _share(stats.total(), inside),
        "domains": {name: _share(counts, inside) for name, counts in zip(stats.domains, stats.counts, strict=True)},
        "tokenizer_is_proven": facts is not None or map_file.tokenizer_fingerprint is not None,
    }


def _share(counts: Tensor, inside: Tensor) -> float | None:
    total = float(counts.sum())
    return float(counts[inside].sum()) / total if total > 0 else None
