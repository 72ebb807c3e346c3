"""One row for all tokens that trimming took away: its logit restores their mass, a fixed prior spreads it.

    logit = log n + h · w̄ (+ ½ hᵀ Σ_C h)          n cold rows, mean w̄, covariance Σ_C
    q̃ = (1 − m) q' + m · prior,   m = share of that logit beside the hot ones

The first part is a lower bound of the log of the cold mass (Jensen), from the SGLang branches of the authors of RDK
(arXiv 2506.03206), who call it too loose: on the Qwen2.5 pair it is 20 to 250 times too small. The second-order term,
from the leading eigenvectors of Σ_C, is ours. The prior is ours as well: their branches were read, not their paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from outlex.proposals.cold_groups import ColdGroups, ColdTokens
from outlex.proposals.cold_rows import ColdRows

__all__ = ["ColdRow"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ColdRow(ColdTokens):
    """q ↦ q̃ with one group of cold tokens.

    Attributes:
        cold: the one group.
    """

    kind: ClassVar[str] = "cold-row"

    @classmethod
    def fit(cls, cold: ColdRows, *, n_target: int, rank: int = 0) -> ColdRow:
        """Average the cold rows.

        Args:
            cold: rows and prior.
            n_target: width of the target's head.
            rank: eigenvectors of the second-order correction; 0 is Jensen's bound.
        """
        groups = torch.zeros(len(cold.ids), dtype=torch.int64)
        return cls(cold=ColdGroups.fit(cold, groups, n_target=n_target, rank=rank))

    @property
    def name(self) -> str:
        return self.kind if not self.cold.basis.shape[0] else f"{self.kind}-2nd-order"
