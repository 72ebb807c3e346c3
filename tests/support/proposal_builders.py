"""Proposals that restore mass, fitted to random arrays: one of each kind for a small vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from outlex.affinity import Covariance, SparseDistributions, StringPrefix
from outlex.proposals import (
    Clusters,
    ColdRow,
    ColdRows,
    DenseKernel,
    DraftScores,
    Learned,
    Mixed,
    RdkExact,
    RdkFirstOrder,
    Restoring,
    SparseKernel,
)
from outlex.sampling import SamplingParams, probabilities
from outlex.vocab.token_map import TokenMap


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def laws(n: int, width: int, *, seed: int, dtype: torch.dtype = torch.float64, sharpness: float = 2.0) -> Tensor:
    """Random laws [n, width]."""
    return (torch.randn(n, width, generator=generator(seed), dtype=dtype) * sharpness).softmax(-1)


def calibration(width: int, *, n: int = 12, n_kept: int = 3, dtype: torch.dtype = torch.float64) -> SparseDistributions:
    """Distributions that leave one token out: proposals take another path for tokens that were never seen."""
    probs = laws(n, width, seed=3, dtype=dtype)
    probs[:, width // 2] = 0
    return SparseDistributions.from_dense(probs, n_kept=min(n_kept, width - 1))


def cold_rows(hot: list[int], n_target: int, *, d: int, dtype: torch.dtype = torch.float64) -> ColdRows:
    """Cold rows of a random head with a bias; the last cold token has no prior mass if there are several."""
    cold = [i for i in range(n_target) if i not in hot]
    prior = torch.rand(n_target, generator=generator(5), dtype=torch.float64)
    if len(cold) > 1:
        prior[cold[-1]] = 0.0
    return ColdRows(
        weight=torch.randn(n_target, d, generator=generator(4), dtype=dtype) * 0.7,
        bias=torch.randn(n_target, generator=generator(6), dtype=dtype) * 0.3,
        ids=torch.tensor(cold),
        prior=prior,
    )


def sparse_kernel(hot: list[int], n_target: int, *, r: int = 2) -> SparseKernel:
    """Rows for the hot tokens: each keeps half, the rest goes to the tokens that follow it in number."""
    sources = torch.tensor(hot)
    neighbours = (sources.unsqueeze(-1) + torch.arange(r)) % n_target
    weights = torch.rand(len(hot), r, generator=generator(7), dtype=torch.float64) + 0.1
    return SparseKernel(sources=sources, neighbours=neighbours, weights=weights, n_target=n_target)


def learned(hot: list[int], n_target: int, *, r: int = 2, n: int = 40) -> Learned:
    """Fitted on random laws."""
    neighbours = sparse_kernel(hot, n_target, r=r).neighbours
    return Learned.fit(
        neighbours=neighbours,
        n_target=n_target,
        draft_probs=laws(n, len(hot), seed=8),
        target_probs=laws(n, n_target, seed=9)[:, Learned.columns(neighbours)],
        held_out=torch.arange(n) % 4 == 0,
        n_steps=20,
    )


def pure_proposals(hot: list[int], n_target: int, *, d: int) -> dict[str, Restoring]:
    """One of each kind, not mixed, in float64, for a head with the hot rows and d hidden states.

    Without `Respelled`, which is about the columns of one head with tokens that the target lacks.
    """
    cold = cold_rows(hot, n_target, d=d)
    covariance = Covariance(distributions=calibration(n_target))
    spellings = [bytes([97 + i % 2]) + bytes([97 + i]) * (i // 2) for i in range(n_target)]
    return {
        "dense-kernel": DenseKernel(matrix=laws(n_target, n_target, seed=2)),
        "rdk-exact": RdkExact(affinity=covariance, temperature=0.05, block=2),
        "rdk-prefix": RdkExact(affinity=StringPrefix.of_bytes(spellings, spellings), temperature=1.0),
        "rdk-first-order": RdkFirstOrder(distributions=calibration(n_target), temperature=0.02),
        "cold-row": ColdRow.fit(cold, n_target=n_target),
        "cold-row-2nd-order": ColdRow.fit(cold, n_target=n_target, rank=d),
        "clusters": Clusters.fit(cold, n_target=n_target, n_clusters=min(2, len(cold.ids)), rank=1),
        "sparse-kernel": sparse_kernel(hot, n_target),
        "learned": learned(hot, n_target),
    }


def all_proposals(hot: list[int], n_target: int, *, d: int) -> dict[str, Restoring]:
    """`pure_proposals`, each of them mixed with TLI as well, in the three ways λ can be chosen."""
    pure = pure_proposals(hot, n_target, d=d)
    estimator = ColdRow.fit(cold_rows(hot, n_target, d=d), n_target=n_target)
    mixed: dict[str, Restoring] = {
        f"mixed {name}": Mixed(inner=inner, weights=((0.3,), (0.6,)), temperatures=(0.5, 1.0))
        for name, inner in pure.items()
    }
    mixed["mixed by cold mass"] = Mixed(
        inner=pure["clusters"], weights=((0.2, 0.9),), edges=(0.4,), estimator=estimator
    )
    return pure | mixed


def scores_of(
    hot: list[int], n_target: int, *, n: int, d: int, dtype: torch.dtype = torch.float64, seed: int = 1
) -> DraftScores:
    """Random scores of n positions; -1 in `hot` is a row unknown to the target."""
    token_map = TokenMap(torch.tensor(hot), n_draft=len(hot), n_target=n_target)
    return DraftScores(
        logits=torch.randn(n, len(hot), generator=generator(seed), dtype=dtype) * 2,
        token_map=token_map,
        hidden=torch.randn(n, d, generator=generator(seed + 1), dtype=dtype),
    )


def tli(scores: DraftScores, params: SamplingParams | None = None) -> Tensor:
    """q' over the whole vocabulary, straight from the definition, for maps without unknown rows."""
    return scores.token_map.scatter(probabilities(scores.logits, params or SamplingParams()))
