"""Reads evidence from files: token statistics, traces, and lists with counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from outlex.calibration.head_files import load_head
from outlex.calibration.stats import KIND as STATS_KIND
from outlex.calibration.stats import TokenStats
from outlex.calibration.target_probs import target_probs
from outlex.calibration.traces import TraceSet
from outlex.errors import InputError, MismatchError
from outlex.heads.linear import LinearHead
from outlex.selection.evidence import DomainEvidence, Evidence
from outlex.vocab.ranking import Ranking, read_ranking
from outlex.vocab.tokenizer_facts import TokenizerFacts

__all__ = ["evidence_of_traces", "read_evidence"]


def read_evidence(paths: Sequence[str | os.PathLike[str]], *, facts: TokenizerFacts) -> Evidence | Ranking:
    """Read sources of all kinds: token statistics, traces, and whatever `read_ranking` takes.

    Args:
        paths: one or more. Of traces the target's head is loaded, to compute its laws.
        facts: of the tokenizer that the ids belong to.

    Returns:
        The evidence; or the ranking, if the only source is a list without counts.

    Raises:
        ArtifactError: a file is missing, unreadable or damaged.
        InputError: a list without counts among others, the same counts twice, or nothing counted.
        MismatchError: made with another tokenizer.
    """
    stats: list[tuple[Path, TokenStats]] = []
    domains: list[DomainEvidence] = []
    sources: list[dict[str, Any]] = []
    parts: set[str] = set()
    for path in map(Path, paths):
        if (path / "trace.json").is_file():
            found, digest = _from_traces(path, facts)
            domains += found
            parts.add(digest)
            sources.append({"source": path.name, "sha256": digest, "format": "traces"})
        elif _is_stats(path):
            stats.append((path, TokenStats.load(path)))
        else:
            ranking = read_ranking(path, n_tokenizer=facts.n_entries)
            if ranking.counts is None:
                return _alone(ranking, path, n_sources=len(paths))
            domains.append(DomainEvidence(name=path.stem, counts=ranking.counts.double()))
            parts.add(str(ranking.provenance["sha256"]))
            sources.append(ranking.provenance)
    if stats:
        merged = _merged([one for _, one in stats])
        domains = [*_from_stats(merged, facts), *domains]
        parts.update(merged.parts)
        sources = [*(_stats_source(path, one) for path, one in stats), *sources]
    return Evidence(domains=tuple(domains), sources=tuple(sources), parts=frozenset(parts))


def _alone(ranking: Ranking, path: Path, *, n_sources: int) -> Ranking:
    if n_sources > 1:
        raise InputError(
            "A list without counts cannot be mixed with other sources",
            got=path,
            expected="counts, statistics or traces",
            next_step="leave it out, or give a list with a count for each id",
        )
    return ranking


def _is_stats(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            body = json.loads((file.metadata() or {}).get("outlex", "{}"))
    except (OSError, SafetensorError, ValueError):
        return False  # read_ranking says what is wrong with it
    return isinstance(body, dict) and body.get("kind") == STATS_KIND


def _merged(stats: list[TokenStats]) -> TokenStats:
    return stats[0].merge(stats[1:]) if len(stats) > 1 else stats[0]


def _from_stats(stats: TokenStats, facts: TokenizerFacts) -> list[DomainEvidence]:
    n = stats.n_entries
    if n > facts.n_entries or facts.fingerprint_of_first(n) != stats.tokenizer_fingerprint:
        raise MismatchError(
            "The token statistics were counted with another tokenizer",
            got=f"{n} entries, fingerprint {stats.tokenizer_fingerprint[:12]}",
            expected=f"{facts.n_entries} entries, fingerprint {facts.fingerprint[:12]}",
            next_step="count again with 'outlex count --tokenizer' and this model",
        )
    missing = facts.n_entries - n
    return [
        DomainEvidence(
            name=name,
            counts=F.pad(counts, (0, missing)).double(),
            weight=float(weight),
            documents=F.pad(documents, (0, missing)),
        )
        for name, counts, weight, documents in zip(
            stats.domains, stats.counts, stats.weights, stats.documents, strict=True
        )
    ]


def _stats_source(path: Path, stats: TokenStats) -> dict[str, Any]:
    tokens = zip(stats.domains, stats.n_tokens, stats.weights, strict=True)
    return {
        "source": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "format": "token statistics",
        "domains": {name: {"n_tokens": n, "weight": weight} for name, n, weight in tokens},
    }


def _from_traces(path: Path, facts: TokenizerFacts) -> tuple[list[DomainEvidence], str]:
    traces = TraceSet.load(path)
    traces.check_vocab(facts.fingerprint, facts.n_entries, what="this drafter")
    found = evidence_of_traces(traces, load_head(traces.header.target), n_entries=facts.n_entries)
    return found, hashlib.sha256((path / "trace.json").read_bytes()).hexdigest()


def evidence_of_traces(traces: TraceSet, target_head: LinearHead, *, n_entries: int) -> list[DomainEvidence]:
    """Expected occurrences of each token by domain: the target's mean probability × positions.

    Args:
        traces: of the pair.
        target_head: of the traced target.
        n_entries: of the tokenizer.
    """
    domains = []
    for name in traces.domains:
        part = traces.domain(name)
        probs = target_probs(part, target_head)
        n = min(n_entries, target_head.n_rows)
        counts, variance = (torch.zeros(n_entries, dtype=torch.float64) for _ in range(2))
        counts[:n], variance[:n] = probs.mean[:n] * probs.n_positions, probs.variance[:n]
        domains.append(
            DomainEvidence(
                name=name,
                kind="traces",
                counts=counts,
                positions=(part.token_ids, part.prompt_index),
                variance=variance,
            )
        )
    return domains
