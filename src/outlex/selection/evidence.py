"""What is known of how often each token is needed, from one source or from several.

A count says how often a token came. A trace says more: at each of its positions the target gave every token a
probability, and their sum over the positions is the number of times the token is expected to come. Both are
occurrences, so sources add up, domain by domain, each with its weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.metrics import Estimate
from outlex.selection.coverage import coverage_of_counts, coverage_of_positions

__all__ = ["DomainEvidence", "Evidence", "check_apart"]


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainEvidence:
    """One domain of one source.

    Attributes:
        name: of the domain; one of the same name from another source is the same domain.
        counts: float64 ``[n_tokenizer]``: occurrences, or expected occurrences.
        kind: what to add to the name in reports, such as "traces".
        weight: what an occurrence is worth in a ranking.
        documents: int64 ``[n_tokenizer]``, documents with the token, where they were counted.
        positions: token ids int64 ``[n]`` and the prompt of each ``[n]``, where the texts are known.
        variance: float64 ``[n_tokenizer]`` of the target's probability over positions, where it is known.
    """

    name: str
    counts: Tensor = field(repr=False)
    kind: str = ""
    weight: float = 1.0
    documents: Tensor | None = field(default=None, repr=False)
    positions: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    variance: Tensor | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """For reports."""
        return f"{self.name} ({self.kind})" if self.kind else self.name

    def coverage(self, kept: Tensor) -> Estimate:
        """Share of its tokens that ``kept``, bool ``[n_tokenizer]``, marks; with the best interval there is."""
        if self.positions is not None:
            return coverage_of_positions(kept, *self.positions)
        return coverage_of_counts(kept, self.counts, self.documents)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Domains of all sources.

    Attributes:
        domains: at least one.
        sources: a JSON object for each source: what it was and its sha256.
        parts: fingerprints of the counting runs and traces in here, to tell whether two splits overlap.

    Raises:
        InputError: nothing was counted.
    """

    domains: tuple[DomainEvidence, ...]
    sources: tuple[dict[str, Any], ...]
    parts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.domains or not float(self.total().sum()) > 0:
            raise InputError(
                "The sources name no token",
                got=", ".join(str(source.get("source")) for source in self.sources),
                expected="at least one count above 0 in a domain of weight above 0",
                next_step="count a corpus with 'outlex count', or give its domain a weight above 0",
            )

    def total(self) -> Tensor:
        """Σ weight · counts: float64 ``[n_tokenizer]``."""
        return torch.stack([domain.weight * domain.counts for domain in self.domains]).sum(0)

    def variance(self) -> Tensor:
        """Of the target's probability of each token, over the positions of all traces: float64 ``[n_tokenizer]``.

        Raises:
            InputError: no source is a trace.
        """
        known = [(d.counts, d.variance) for d in self.domains if d.variance is not None]
        if not known:
            raise InputError(
                "Only traces know the variance of a token's probability",
                got=", ".join(str(source.get("source")) for source in self.sources),
                expected="a directory that 'outlex trace' wrote",
                next_step="give one as --tokens, or rank by the mixture",
            )
        n = [float(counts.sum()) for counts, _ in known]
        squares = torch.stack([size * v + c.square() / size for (c, v), size in zip(known, n, strict=True)]).sum(0)
        mean = torch.stack([counts for counts, _ in known]).sum(0) / sum(n)
        return (squares / sum(n) - mean.square()).clamp_min(0)


def check_apart(chosen_on: Evidence, reported_on: Evidence) -> None:
    """Refuse to report on what the tokens were chosen by: such coverage is too good to be true.

    Raises:
        InputError: a counting run or a trace is in both.
    """
    shared = sorted(chosen_on.parts & reported_on.parts)
    if shared:
        raise InputError(
            "The vocabulary would be reported on the counts that it was chosen by",
            got=f"{len(shared)} shared counting runs, for example {shared[0][:12]}",
            expected="another part of the corpus",
            next_step="count two parts of the corpus into two files: one for --tokens, the other for --report-on",
        )
