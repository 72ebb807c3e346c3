"""Affinity priors: how much one token is evidence for another. One file a source, one protocol (`base.py`)."""

from outlex.affinity.base import Affinity, nearest, neighbourhood
from outlex.affinity.co_occurrence import CoOccurrence, Correlation, Covariance
from outlex.affinity.distributions import SparseDistributions
from outlex.affinity.head_rows import HeadCosine
from outlex.affinity.prefix import StringPrefix

__all__ = [
    "Affinity",
    "CoOccurrence",
    "Correlation",
    "Covariance",
    "HeadCosine",
    "SparseDistributions",
    "StringPrefix",
    "nearest",
    "neighbourhood",
]
