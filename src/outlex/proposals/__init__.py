"""Proposals: the law q̃ that draft tokens are drawn from. One file each, one protocol (`base.py`).

`Vanilla` and `Tli` propose hot tokens alone. The others give mass back to cold ones (`restoring.py`): from an affinity
of tokens (`RdkExact`, `RdkFirstOrder`, `SparseKernel`), from the rows that trimming took away (`ColdRow`, `Clusters`),
from traces (`Learned`), from how the target spells what only the drafter has (`Respelled`); `Mixed` puts TLI beside any
of them.
"""

from outlex.proposals.base import DraftScores, HotLaw, Proposal, ProposalLaw
from outlex.proposals.clusters import Clusters
from outlex.proposals.cold_row import ColdRow
from outlex.proposals.cold_rows import ColdRows
from outlex.proposals.learned import Learned
from outlex.proposals.mixed import Mixed
from outlex.proposals.rdk_exact import DenseKernel, RdkExact
from outlex.proposals.rdk_first_order import RdkFirstOrder
from outlex.proposals.respelled import Respelled
from outlex.proposals.restoring import Restoring
from outlex.proposals.sparse_kernel import SparseKernel
from outlex.proposals.tli import Tli
from outlex.proposals.vanilla import Vanilla

__all__ = [
    "Clusters",
    "ColdRow",
    "ColdRows",
    "DenseKernel",
    "DraftScores",
    "HotLaw",
    "Learned",
    "Mixed",
    "Proposal",
    "ProposalLaw",
    "RdkExact",
    "RdkFirstOrder",
    "Respelled",
    "Restoring",
    "SparseKernel",
    "Tli",
    "Vanilla",
]
