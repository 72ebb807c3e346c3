"""Cold tokens in clusters of similar head rows: a row for each cluster says how much mass it has.

    logit of cluster c = h · centroid_c + log n_c (+ ½ Σ_k s_ck (h · u_k)²)
    q̃ = (1 − Σ_c m_c) q' + Σ_c m_c · prior within c

k-means on the cold rows. The closer a cluster's rows, the better Jensen's bound holds, and the second-order term
(directions u_k that all clusters share, variances s_ck of their own) repairs what is left. Compare adaptive softmax
(arXiv 1609.04309), which trains its clusters; these need no training. Ours: not part of RDK
(arXiv 2506.03206).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from outlex.errors import InputError
from outlex.proposals.cold_groups import ColdGroups, ColdTokens
from outlex.proposals.cold_rows import ColdRows

__all__ = ["Clusters", "k_means"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters(ColdTokens):
    """q ↦ q̃ with a group of cold tokens for each cluster.

    Attributes:
        cold: the clusters.
    """

    kind: ClassVar[str] = "clusters"

    @classmethod
    def fit(
        cls, cold: ColdRows, *, n_target: int, n_clusters: int = 256, rank: int = 0, n_rounds: int = 10, seed: int = 0
    ) -> Clusters:
        """Cluster the cold rows.

        Args:
            cold: rows and prior.
            n_target: width of the target's head.
            n_clusters: at most; clusters that end up empty are left out.
            rank: directions of the second-order term; 0 leaves it out.
            n_rounds: of k-means.
            seed: of its start.

        Raises:
            InputError: more clusters than rows.
        """
        groups = k_means(cold, n_clusters=n_clusters, n_rounds=n_rounds, seed=seed)
        return cls(cold=ColdGroups.fit(cold, groups, n_target=n_target, rank=rank))

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.cold.laws.n_groups}"


def k_means(cold: ColdRows, *, n_clusters: int, n_rounds: int, seed: int) -> Tensor:
    """Lloyd's algorithm from randomly chosen rows: the cluster of each cold row, int64 [m], numbered without gaps.

    Raises:
        InputError: more clusters than rows, or counts below 1.
    """
    n = len(cold.ids)
    if not 1 <= n_clusters <= n or n_rounds < 1:
        raise InputError(
            "The cold rows cannot be clustered so",
            got=f"{n_clusters} clusters, {n_rounds} rounds",
            expected=f"from 1 to {n} clusters, at least one round",
            next_step="256 clusters and 10 rounds are good starts",
        )
    first = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_clusters]
    centres = torch.cat([cold.rows(i, i + 1) for i in first.tolist()])
    groups = torch.zeros(n, dtype=torch.int64, device=centres.device)
    for _ in range(n_rounds):
        sums, counts = torch.zeros_like(centres), centres.new_zeros(n_clusters)
        offsets = centres.square().sum(-1) / 2
        for own, rows in cold.blocks():
            groups[own] = (rows @ centres.T - offsets).argmax(-1)  # |x − c|² without |x|², halved, negated
            sums.index_add_(0, groups[own], rows)
            counts.index_add_(0, groups[own], rows.new_ones(len(rows)))
        centres = torch.where(counts.unsqueeze(-1) > 0, sums / counts.clamp_min(1).unsqueeze(-1), centres)
    numbered: Tensor = torch.unique(groups, return_inverse=True)[1]
    return numbered
