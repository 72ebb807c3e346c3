"""Two maps side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from outlex.formats.base import MapFile

__all__ = ["MapDifference", "compare"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MapDifference:
    """What two maps share.

    Attributes:
        only_a, only_b: int64, ids that one of them lacks, in the order of the one that has them.
        n_shared: ids in both.
        jaccard: shared ids over all ids of both together.
        is_same_order: whether the shared ids come in the same order.
        is_identical: same ids in the same rows.
    """

    only_a: Tensor = field(repr=False)
    only_b: Tensor = field(repr=False)
    n_shared: int
    jaccard: float
    is_same_order: bool
    is_identical: bool


def compare(a: MapFile, b: MapFile) -> MapDifference:
    """Tokens and order of two maps; how their files spell them does not matter."""
    in_b, in_a = torch.isin(a.ids, b.ids), torch.isin(b.ids, a.ids)
    n_shared = int(in_b.sum())
    return MapDifference(
        only_a=a.ids[~in_b],
        only_b=b.ids[~in_a],
        n_shared=n_shared,
        jaccard=n_shared / (a.n_draft + b.n_draft - n_shared),
        is_same_order=torch.equal(a.ids[in_b], b.ids[in_a]),
        is_identical=torch.equal(a.ids, b.ids),
    )
